//! temporary
#![allow(missing_docs, unused, clippy::all)]
use dhtfs_store::ContentCid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
#[derive(Debug, Default)]
pub struct ProvideConfig;
#[derive(Debug)]
pub struct Provide {
    keys: BTreeSet<ContentCid>,
    queue: VecDeque<ContentCid>,
    flight: usize,
    done: BTreeSet<ContentCid>,
    routing: usize,
    failed: u64,
    w: Vec<ContentCid>,
    retry: Option<Instant>,
}
#[derive(Debug, Clone, Copy)]
pub enum Class {
    Root,
    Chunk,
}
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Provide(ContentCid),
    Withdraw(ContentCid),
}
#[derive(Debug, Clone, Default)]
pub struct ProvideStats {
    pub keys: u64,
    pub announced: u64,
    pub pending: u64,
    pub in_flight: u64,
    pub failed: u64,
}
impl Provide {
    pub fn new(c: ProvideConfig, seed: u64, now: Instant) -> Self {
        Provide {
            keys: Default::default(),
            queue: Default::default(),
            flight: 0,
            done: Default::default(),
            routing: 0,
            failed: 0,
            w: vec![],
            retry: None,
        }
    }
    pub fn on_keys(&mut self, c: Class, k: impl IntoIterator<Item = ContentCid>, now: Instant) {
        for k in k {
            if self.keys.insert(k) {
                match c {
                    Class::Root => self.queue.push_front(k),
                    Class::Chunk => self.queue.push_back(k),
                }
            }
        }
    }
    pub fn on_removed(&mut self, k: impl IntoIterator<Item = ContentCid>, now: Instant) {
        for k in k {
            self.keys.remove(&k);
            self.done.remove(&k);
            self.w.push(k);
        }
        self.queue.retain(|k| self.keys.contains(k));
    }
    pub fn on_provided(&mut self, c: ContentCid, o: Result<usize, ()>, now: Instant) {
        self.flight -= 1;
        if !self.keys.contains(&c) {
            return;
        }
        match o {
            Ok(n) if n > 0 => {
                self.done.insert(c);
            }
            _ => {
                self.failed += 1;
                self.queue.push_back(c);
                self.retry = Some(now + Duration::from_secs(1));
            }
        }
    }
    pub fn on_routing(&mut self, p: usize, now: Instant) {
        if p >= 2 * self.routing && p > 0 && self.routing < 20 {
            for k in std::mem::take(&mut self.done) {
                self.queue.push_back(k);
            }
            self.routing = p;
        } else if p == 0 {
            self.routing = 0;
        }
    }
    pub fn on_timeout(&mut self, now: Instant) {
        self.retry = None;
    }
    pub fn next_action(&mut self) -> Option<Action> {
        if let Some(k) = self.w.pop() {
            return Some(Action::Withdraw(k));
        }
        if self.retry.is_some() || self.routing == 0 || self.flight >= 32 {
            return None;
        }
        let k = self.queue.pop_front()?;
        self.flight += 1;
        Some(Action::Provide(k))
    }
    pub fn next_deadline(&self) -> Option<Instant> {
        self.retry
    }
    pub fn stats(&self) -> ProvideStats {
        ProvideStats {
            keys: self.keys.len() as u64,
            announced: self.done.len() as u64,
            pending: self.queue.len() as u64,
            in_flight: self.flight as u64,
            failed: self.failed,
        }
    }
}
