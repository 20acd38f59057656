//! Random inputs, compared with a naive model after every step.
//!
//! The model knows records as a map. Where the store has a choice, who makes room, the model does not repeat it but
//! looks at what is gone and judges by the rules whether that could go.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::PeerId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Admission, DAY, Digest, IpGroup, Offer, Store, digest, group, peer};

const PEERS: u64 = 12;
const KEYS: u64 = 30;
const MAX: usize = 60;
const PER_PROVIDER: usize = 25;
const PER_GROUP: usize = 30;
const PER_KEY: usize = 4;
const MAX_PEERS: usize = 9;

type Id = (Digest, PeerId);

#[derive(Default)]
struct Model {
    /// When each record ends.
    records: BTreeMap<Id, u64>,
    groups: BTreeMap<PeerId, Option<IpGroup>>,
    away: BTreeSet<PeerId>,
}

impl Model {
    fn of_peer(&self, peer: &PeerId) -> usize {
        self.records.keys().filter(|(_, other)| other == peer).count()
    }

    fn of_group(&self, group: &Option<IpGroup>) -> usize {
        self.records.keys().filter(|(_, peer)| group.is_some() && self.groups[peer] == *group).count()
    }

    fn of_key(&self, digest: &Digest) -> usize {
        self.records.keys().filter(|(other, _)| other == digest).count()
    }

    fn peers(&self) -> BTreeSet<PeerId> {
        self.records.keys().map(|(_, peer)| *peer).collect()
    }

    /// What a provider shares its budget with: its group, or nobody.
    fn shared(&self, peer: &PeerId, group: &Option<IpGroup>) -> usize {
        if group.is_some() { self.of_group(group) } else { self.of_peer(peer) }
    }

    /// The most that any group or single provider has.
    fn most(&self) -> usize {
        self.peers().iter().map(|peer| self.shared(peer, &self.groups[peer])).max().unwrap_or(0)
    }

    fn largest_in(&self, group: &Option<IpGroup>) -> usize {
        let peers = self.peers();
        peers
            .iter()
            .filter(|peer| self.groups[*peer] == *group)
            .map(|peer| self.of_peer(peer))
            .max()
            .unwrap_or(0)
    }

    fn members(&self, group: &Option<IpGroup>) -> usize {
        self.peers().iter().filter(|peer| group.is_some() && self.groups[*peer] == *group).count()
    }

    /// Moves a peer if its new group has room for all it has.
    fn regroup(&mut self, peer: PeerId, group: Option<IpGroup>) {
        let old = self.groups.get(&peer).copied();
        let has_room = group.is_none() || self.of_group(&group) + self.of_peer(&peer) <= PER_GROUP;
        if old.is_none() || has_room {
            self.groups.insert(peer, group);
        }
    }

    /// Whether all that is gone could go to make room for a record of `peer`.
    fn judge(&self, gone: &BTreeSet<Id>, id: &Id, group: Option<IpGroup>, admission: Admission) {
        let (key, newcomer) = id;
        let held = self.of_peer(newcomer);
        let shared = self.shared(newcomer, &group);
        assert_eq!(gone.is_empty(), admission != Admission::Replaced);
        let mut per_peer: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (_, peer) in gone {
            *per_peer.entry(*peer).or_insert(0) += 1;
        }
        let mut reasons = 0;
        for (peer, count) in per_peer {
            let theirs = self.groups[&peer];
            let has = self.of_peer(&peer);
            let has_far_more = has > 2 * (held + 1);
            let in_full_group = theirs.is_some()
                && theirs == group
                && self.of_group(&group) + held + 1 > PER_GROUP
                && has_far_more;
            let in_full_key = count == 1 && gone.contains(&(*key, peer)) && self.of_key(key) >= PER_KEY;
            let is_most = self.shared(&peer, &theirs) == self.most() && self.most() > 2 * (shared + 1);
            let is_largest = theirs.is_none() || has == self.largest_in(&theirs);
            let in_full_store = self.records.len() >= MAX
                && is_largest
                && (is_most || (theirs.is_some() && theirs == group && has_far_more));
            let in_crowd = count == has
                && self.peers().len() >= MAX_PEERS
                && self.members(&theirs) > 2 * (self.members(&group) + 1);
            assert!(
                in_full_group || in_full_key || in_full_store || in_crowd,
                "{peer} lost {count} of {has}"
            );
            reasons += 1;
        }
        assert!(reasons <= 3);
    }

    /// Whether a refusal is right.
    fn judge_refusal(&self, id: &Id, group: Option<IpGroup>, refusal: Admission) {
        let (key, newcomer) = id;
        let (held, shared) = (self.of_peer(newcomer), self.shared(newcomer, &group));
        match refusal {
            Admission::Quota => assert!(held >= PER_PROVIDER),
            Admission::GroupQuota => {
                assert!(self.of_group(&group) + held + 1 > PER_GROUP || held >= PER_GROUP);
                assert!(self.largest_in(&group) <= 2 * (held + 1));
            }
            Admission::Providers => {
                assert!(held == 0 && self.peers().len() >= MAX_PEERS);
                let crowds = self.peers().into_iter().map(|peer| self.members(&self.groups[&peer]));
                assert!(crowds.max().unwrap_or(0) <= 2 * (self.members(&group) + 1));
            }
            Admission::Full => {
                assert!(self.records.len() >= MAX && self.of_key(key) < PER_KEY);
                assert!(self.most() <= 2 * (shared + 1));
                assert!(group.is_none() || self.largest_in(&group) <= 2 * (held + 1));
            }
            other => panic!("{other:?} is no refusal of the store"),
        }
    }
}

fn content(store: &Store) -> BTreeSet<Id> {
    let all = (0..PEERS).flat_map(|n| (0..KEYS).map(move |key| (n, key)));
    all.filter(|(n, key)| store.holds(*n, *key)).map(|(n, key)| (digest(key), peer(n))).collect()
}

fn admit(store: &mut Store, model: &mut Model, seconds: u64, rng: &mut StdRng) {
    // Few peers leave most of the records, so that somebody is the largest.
    let n = rng.random_range(0..PEERS).min(rng.random_range(0..PEERS));
    let offered = if n < 3 { None } else { group((n % 3) as u8 + u8::from(rng.random_bool(0.05))) };
    let key = rng.random_range(0..KEYS);
    let id = (digest(key), peer(n));
    let offer = Offer::new(peer(n), &[format!("/memory/{seconds}").parse().unwrap()], offered);
    let is_new = !model.records.contains_key(&id);
    let admission = store.admit(&offer, key);
    let left = content(store);
    let gone: BTreeSet<Id> = model.records.keys().filter(|id| !left.contains(id)).copied().collect();
    // A provider that cannot move counts where it is.
    let stays = model.groups.get(&peer(n)).copied().filter(|_| {
        model.of_peer(&peer(n)) > 0
            && offered.is_some()
            && model.of_group(&offered) + model.of_peer(&peer(n)) > PER_GROUP
    });
    let counts_in = stays.unwrap_or(offered);
    if !admission.is_held() {
        assert!(is_new && gone.is_empty());
        model.judge_refusal(&id, counts_in, admission);
        return;
    }
    model.judge(&gone, &id, counts_in, admission);
    model.records.retain(|id, _| !gone.contains(id));
    if model.of_peer(&peer(n)) == 0 {
        model.groups.remove(&peer(n));
    }
    model.regroup(peer(n), offered);
    model.away.remove(&peer(n));
    model.records.insert(id, seconds + DAY);
}

fn compare(store: &Store, model: &Model, seconds: u64) {
    store.records.check_invariants();
    assert_eq!(store.records.foreign_len(), model.records.len());
    assert!(content(store).into_iter().eq(model.records.keys().copied()));
    for key in 0..KEYS {
        let mut answer = store.answer(key);
        answer.sort_unstable();
        let is_live = |((other, peer), expires): &(&Id, &u64)| {
            *other == digest(key) && **expires > seconds && !model.away.contains(peer)
        };
        let live = model.records.iter().filter(is_live).map(|((_, peer), _)| *peer);
        assert!(answer.into_iter().eq(live));
    }
}

fn run(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut store = Store::new(|limits| {
        limits.max_foreign_records = MAX;
        limits.max_records_per_provider = PER_PROVIDER;
        limits.max_records_per_group = PER_GROUP;
        limits.max_providers_per_key = PER_KEY;
        limits.max_record_providers = MAX_PEERS;
    });
    let mut model = Model::default();
    let mut seconds = 0;
    for _ in 0..1_500 {
        seconds += rng.random_range(0..DAY / 100);
        store.at(seconds);
        let who = peer(rng.random_range(0..PEERS));
        match rng.random_range(0..40) {
            0 => {
                if store.records.away(&who) {
                    model.away.insert(who);
                }
            }
            1 => {
                store.records.back(&who);
                model.away.remove(&who);
            }
            2 => {
                let key = digest(rng.random_range(0..KEYS));
                assert_eq!(store.records.withdraw(&who, &key), model.records.remove(&(key, who)).is_some());
            }
            3 => {
                store.records.forget(&who);
                store.records.check_invariants();
                store.sweep();
                model.records.retain(|(_, peer), expires| *peer != who && *expires > seconds);
            }
            4 => {
                let ended = model.records.values().filter(|expires| **expires <= seconds).count();
                assert_eq!(store.sweep(), ended);
                model.records.retain(|_, expires| *expires > seconds);
            }
            _ => admit(&mut store, &mut model, seconds, rng),
        }
        // A provider without records is not known any more.
        let peers = model.peers();
        model.groups.retain(|peer, _| peers.contains(peer));
        model.away.retain(|peer| peers.contains(peer));
        compare(&store, &model, seconds);
    }
}

#[test]
fn the_store_agrees_with_a_naive_model_whatever_happens() {
    for seed in 0..8 {
        println!("seed {seed}");
        run(seed);
    }
}
