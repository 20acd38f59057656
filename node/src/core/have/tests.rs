//! Situations by hand, and drawn runs in which listeners must end up knowing what is held.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dhtfs_store::{ChunkSet, Held, ManifestCid};
use libp2p::PeerId;
use proptest::prelude::*;

use super::*;

const CHUNKS: u32 = 20;

fn root(n: u8) -> ManifestCid {
    ManifestCid::from_digest([n; 32])
}

fn set(held: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::new(CHUNKS);
    for index in held {
        set.insert(index);
    }
    set
}

/// What a listener made of what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Nothing,
    Some(BTreeSet<u32>),
    Last(Telling),
}

/// A machine, a store, and listeners.
struct Scene {
    have: Have,
    now: Instant,
    store: BTreeMap<ManifestCid, Option<BTreeSet<u32>>>,
    looking: Option<ManifestCid>,
    heard: BTreeMap<StreamId, Heard>,
    told: Vec<(StreamId, Telling)>,
    on_way: BTreeSet<StreamId>,
}

impl Scene {
    fn new(config: HaveConfig) -> Self {
        Self {
            have: Have::new(config),
            now: Instant::now(),
            store: BTreeMap::new(),
            looking: None,
            heard: BTreeMap::new(),
            told: Vec::new(),
            on_way: BTreeSet::new(),
        }
    }

    fn with<T>(&mut self, input: impl FnOnce(&mut Have, Instant) -> T) -> T {
        let result = input(&mut self.have, self.now);
        while let Some(action) = self.have.next_action() {
            match action {
                HaveAction::Look(root) => assert_eq!(self.looking.replace(root), None, "two looks at once"),
                HaveAction::Tell(id, telling) => {
                    assert!(self.on_way.insert(id), "two frames at once on a stream");
                    self.hear(id, &telling);
                    self.told.push((id, telling));
                }
            }
        }
        self.have.check_invariants();
        result
    }

    fn hear(&mut self, id: StreamId, telling: &Telling) {
        let heard = self.heard.get_mut(&id).unwrap();
        let decode = |bytes| ChunkSet::decode(bytes, CHUNKS).unwrap().iter().collect::<BTreeSet<u32>>();
        *heard = match (std::mem::replace(heard, Heard::Nothing), telling) {
            (Heard::Last(_), _) => panic!("something after the last"),
            (_, Telling::Map(map)) => Heard::Some(decode(map)),
            (Heard::Some(mut held), Telling::More(more)) => {
                let more = decode(more);
                assert!(!more.is_empty() && held.is_disjoint(&more), "news that are none");
                held.extend(more);
                Heard::Some(held)
            }
            (Heard::Nothing, Telling::More(_)) => panic!("news before the map"),
            (_, last) => Heard::Last(last.clone()),
        };
    }

    fn open(&mut self, id: u64, peer: PeerId) -> bool {
        let opened = self.with(|have, _| have.on_stream(StreamId(id), peer));
        if opened {
            self.heard.insert(StreamId(id), Heard::Nothing);
        }
        opened
    }

    fn ask(&mut self, id: u64, content: u8) {
        assert!(self.open(id, PeerId::random()));
        self.with(|have, now| have.on_question(StreamId(id), root(content), now));
    }

    fn change(&mut self, content: u8, held: Option<Vec<u32>>) {
        self.store.insert(root(content), held.map(|held| held.into_iter().collect()));
        self.with(Have::on_changed);
    }

    /// The look that runs ends.
    fn look(&mut self) {
        let Some(root) = self.looking.take() else { return };
        let held = self
            .store
            .get(&root)
            .cloned()
            .flatten()
            .map(|held| if held.len() == CHUNKS as usize { Held::All } else { Held::Some(set(held)) });
        self.with(|have, now| have.on_looked(root, held, now));
    }

    fn take(&mut self, id: StreamId) {
        if self.on_way.remove(&id) {
            self.with(|have, now| have.on_told(id, now));
        }
    }

    /// Lets everything happen that is to happen.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.look();
            for id in self.on_way.clone() {
                self.take(id);
            }
            match self.have.next_deadline() {
                _ if self.looking.is_some() || !self.on_way.is_empty() => {}
                Some(at) => {
                    self.now = self.now.max(at);
                    self.with(Have::on_timeout);
                }
                None => return,
            }
        }
        panic!("it never settles");
    }

    fn heard(&self, id: u64) -> &Heard {
        &self.heard[&StreamId(id)]
    }
}

fn some(held: impl IntoIterator<Item = u32>) -> Heard {
    Heard::Some(held.into_iter().collect())
}

#[test]
fn what_is_complete_is_told_in_one_word_and_the_stream_ends() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some((0..CHUNKS).collect()));
    scene.ask(1, 1);
    scene.settle();
    assert_eq!(scene.heard(1), &Heard::Last(Telling::All));
    assert_eq!(scene.have.stats().streams, 0);
    assert_eq!(scene.told.len(), 1);
}

#[test]
fn what_comes_is_told_once_and_the_end_of_it_too() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some(vec![3]));
    scene.ask(1, 1);
    scene.look();
    scene.take(StreamId(1));
    scene.change(1, Some(vec![3, 4, 5]));
    assert_eq!(scene.looking, None, "not before the pause is over");
    scene.now += Duration::from_secs(1);
    scene.with(Have::on_timeout);
    scene.look();
    assert_eq!(scene.told[1], (StreamId(1), Telling::More(set([4, 5]).encode().into())));
    scene.change(2, Some(vec![1]));
    scene.settle();
    assert_eq!(scene.told.len(), 2, "another content is nothing new");
    scene.change(1, Some((0..CHUNKS).collect()));
    scene.settle();
    assert_eq!(scene.heard(1), &Heard::Last(Telling::All));
}

#[test]
fn what_is_lost_is_told_as_a_new_map_and_removal_ends_it() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some(vec![3, 4]));
    scene.ask(1, 1);
    scene.look();
    scene.take(StreamId(1));
    scene.change(1, Some(vec![4, 5]));
    scene.now += Duration::from_secs(1);
    scene.with(Have::on_timeout);
    scene.look();
    assert_eq!(scene.heard(1), &some([4, 5]));
    assert!(matches!(scene.told[1].1, Telling::Map(_)));
    scene.change(1, None);
    scene.settle();
    assert_eq!(scene.heard(1), &Heard::Last(Telling::Unknown));
}

#[test]
fn who_takes_nothing_for_long_gets_the_map_and_nobody_waits_for_it() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some(vec![0]));
    scene.ask(1, 1);
    scene.ask(2, 1);
    scene.look();
    for n in 1..15 {
        scene.take(StreamId(2));
        scene.change(1, Some((0..=n).collect()));
        scene.now += Duration::from_secs(1);
        scene.with(Have::on_timeout);
        scene.look();
    }
    assert_eq!(scene.heard(2), &some(0..15));
    assert_eq!(scene.heard(1), &some([0]));
    scene.take(StreamId(1));
    assert_eq!(scene.heard(1), &some(0..15));
    assert!(matches!(scene.told.last().unwrap().1, Telling::Map(_)), "the news are gone");
}

#[test]
fn a_content_is_looked_at_once_for_all_who_ask_and_looks_take_a_tenth_of_the_time() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some(vec![1]));
    for id in 0..50 {
        scene.ask(id, 1);
    }
    scene.now += Duration::from_secs(4);
    scene.look();
    for id in 50..100 {
        scene.ask(id, 1);
    }
    assert!((0..100).all(|id| scene.heard(id) == &some([1])));
    assert_eq!(scene.have.stats().looks, 1);
    scene.change(1, Some(vec![1, 2]));
    assert_eq!(scene.have.next_deadline(), Some(scene.now + Duration::from_secs(36)));
}

#[test]
fn looks_at_many_contents_take_a_tenth_of_the_time_together_and_new_ones_come_first() {
    let mut scene = Scene::new(HaveConfig::default());
    for n in 1..=3 {
        scene.change(n, Some(vec![1]));
        scene.ask(u64::from(n), n);
    }
    let second = Duration::from_secs(1);
    let mut looked = Vec::new();
    for round in 0..4 {
        looked.push(scene.looking.unwrap());
        scene.now += second;
        scene.look();
        assert_eq!(scene.looking, None, "it rests");
        if round == 1 {
            // There are news of the first, and somebody asks for a fourth.
            scene.change(1, Some(vec![1, 2]));
            scene.change(4, Some(vec![1]));
            scene.ask(9, 4);
        }
        let rest = scene.have.next_deadline().unwrap();
        assert_eq!(rest, scene.now + 9 * second);
        scene.now = rest;
        scene.with(Have::on_timeout);
    }
    let expected = [1, 2, 3, 4].map(root);
    assert_eq!(looked, expected);
    assert_eq!(scene.looking, Some(root(1)), "again");
}

#[test]
fn a_store_that_fails_is_busy_and_not_without_the_content() {
    let mut scene = Scene::new(HaveConfig::default());
    scene.change(1, Some(vec![1]));
    scene.ask(1, 1);
    scene.look();
    scene.take(StreamId(1));
    scene.change(1, Some(vec![1, 2]));
    scene.now += Duration::from_secs(1);
    scene.with(Have::on_timeout);
    let fail = |scene: &mut Scene| {
        let root = scene.looking.take().unwrap();
        scene.with(|have, now| have.on_look_failed(root, now));
    };
    fail(&mut scene);
    assert_eq!(scene.heard(1), &some([1]), "who listens keeps what he knows");
    scene.change(2, Some(vec![3]));
    scene.ask(2, 2);
    fail(&mut scene);
    assert_eq!(scene.heard(2), &Heard::Last(Telling::Busy));
    scene.settle();
    assert_eq!(scene.heard(1), &some([1, 2]), "it was looked at again");
    scene.ask(3, 2);
    scene.settle();
    assert_eq!(scene.heard(3), &some([3]));
}

#[test]
fn who_asks_again_and_again_is_answered_from_memory() {
    let mut scene = Scene::new(HaveConfig::default());
    for id in 0..100 {
        scene.ask(id, 9);
        scene.look();
        scene.take(StreamId(id));
        assert_eq!(scene.heard(id), &Heard::Last(Telling::Unknown));
    }
    assert_eq!(scene.have.stats().looks, 1);
    scene.now += HaveConfig::default().keep;
    scene.with(Have::on_timeout);
    assert!(scene.have.contents.is_empty());
    // What is remembered and may be wrong by now is looked at before it is said for the last time.
    scene.ask(200, 9);
    scene.look();
    scene.change(9, Some(vec![1]));
    scene.ask(201, 9);
    assert_eq!(scene.heard(201), &Heard::Nothing);
    scene.settle();
    assert_eq!(scene.heard(201), &some([1]));
}

#[test]
fn streams_and_contents_are_bounded() {
    let config =
        HaveConfig { max_streams: 10, max_streams_per_peer: 3, max_contents: 4, ..HaveConfig::default() };
    let mut scene = Scene::new(config);
    let peer = PeerId::random();
    let opened = (0..5).filter(|id| scene.open(*id, peer)).count();
    assert_eq!(opened, 3);
    let opened = (5..20).filter(|id| scene.open(*id, PeerId::random())).count();
    assert_eq!(opened, 7);
    assert_eq!(scene.have.stats().refused, 10);
    scene.with(|have, now| have.on_closed(StreamId(0), now));
    assert!(scene.open(99, peer), "there is room again");

    for (id, content) in [(1, 1), (2, 2), (5, 3), (6, 4), (7, 5)] {
        scene.store.insert(root(content), Some(BTreeSet::from([1])));
        scene.with(|have, now| have.on_question(StreamId(id), root(content), now));
    }
    assert_eq!(scene.heard(7), &Heard::Last(Telling::Busy));
    assert_eq!(scene.have.stats().busy, 1);
    scene.with(|have, now| have.on_closed(StreamId(5), now));
    scene.with(|have, now| have.on_question(StreamId(8), root(6), now));
    scene.settle();
    assert_eq!(scene.heard(8), &Heard::Last(Telling::Unknown), "what nobody listens to makes room");
}

#[derive(Debug, Clone)]
enum Input {
    Open(u8),
    Ask(u64, u8),
    Close(u64),
    Add(u8, Vec<u32>),
    Lose(u8, u32),
    Share(u8, bool),
    Look,
    Take(u64),
    Wait(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let (stream, content) = (0..12_u64, 0..3_u8);
    prop_oneof![
        3 => (0..4_u8).prop_map(Input::Open),
        3 => (stream.clone(), content.clone()).prop_map(|(id, content)| Input::Ask(id, content)),
        1 => stream.clone().prop_map(Input::Close),
        6 => (content.clone(), prop::collection::vec(0..CHUNKS, 1..8)).prop_map(|(n, new)| Input::Add(n, new)),
        1 => (content.clone(), 0..CHUNKS).prop_map(|(n, lost)| Input::Lose(n, lost)),
        1 => (content, prop::bool::weighted(0.8)).prop_map(|(n, shared)| Input::Share(n, shared)),
        6 => Just(Input::Look),
        6 => stream.prop_map(Input::Take),
        4 => (0..3_000_u64).prop_map(Input::Wait),
    ]
}

fn change(scene: &mut Scene, content: u8, change: impl FnOnce(&mut BTreeSet<u32>)) {
    if let Some(held) = scene.store.entry(root(content)).or_insert(Some(BTreeSet::new())) {
        change(held);
    }
    scene.with(Have::on_changed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_listener_ends_up_knowing_what_is_held(inputs in prop::collection::vec(input(), 1..200)) {
        let mut scene = Scene::new(HaveConfig { max_streams_per_peer: 4, ..HaveConfig::default() });
        let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        let (mut next, mut asked) = (0, BTreeMap::new());
        for input in inputs {
            match input {
                Input::Open(peer) => {
                    scene.open(next, peers[usize::from(peer)]);
                    next += 1;
                }
                Input::Ask(id, content) => {
                    if scene.heard.contains_key(&StreamId(id)) {
                        asked.entry(StreamId(id)).or_insert(content);
                    }
                    scene.with(|have, now| have.on_question(StreamId(id), root(content), now));
                }
                Input::Close(id) => {
                    scene.heard.remove(&StreamId(id));
                    scene.on_way.remove(&StreamId(id));
                    scene.with(|have, now| have.on_closed(StreamId(id), now));
                }
                Input::Add(content, new) => change(&mut scene, content, |held| held.extend(new)),
                Input::Lose(content, lost) => change(&mut scene, content, |held| {
                    held.remove(&lost);
                }),
                Input::Share(content, shared) => {
                    let held = scene.store.remove(&root(content)).flatten().unwrap_or_default();
                    scene.change(content, shared.then(|| held.into_iter().collect()));
                }
                Input::Look => scene.look(),
                Input::Take(id) => scene.take(StreamId(id)),
                Input::Wait(ms) => {
                    scene.now += Duration::from_millis(ms);
                    scene.with(Have::on_timeout);
                }
            }
        }
        scene.settle();
        for (id, heard) in &scene.heard {
            let Some(content) = asked.get(id) else {
                prop_assert_eq!(heard, &Heard::Nothing);
                continue;
            };
            let truth = scene.store.get(&root(*content)).cloned().flatten();
            match heard {
                // It was true when it was said.
                Heard::Last(_) => {}
                Heard::Some(heard) => prop_assert_eq!(Some(heard), truth.as_ref()),
                Heard::Nothing => prop_assert!(false, "{id:?} was told nothing"),
            }
        }
    }
}
