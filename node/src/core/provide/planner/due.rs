//! Sweeps of keys that have their turn: those at the cursor, those of failed regions, and all of them anew.

use super::*;

/// Seconds that a mark may lie ahead of the clock without being taken for an error of it.
const MARK_SLACK_S: u32 = 120;

/// How long after the last save an empty region is worth another one.
const SAVE_EMPTY_AFTER: Duration = Duration::from_secs(60);

/// A pass over the whole keyspace, beside the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renew {
    /// Where it is: the first 64 bits of a position.
    pub(super) cursor: u64,
    /// How much of the keyspace is left, in 1/2^64.
    pub(super) left: u128,
    /// Keys that were announced before this time are due in it, in s since 1970.
    pub(super) before: u32,
    /// When it began.
    pub(super) since: Instant,
}

impl Renew {
    /// How many of so many keys are left.
    pub(super) fn share_of(&self, keys: u64) -> u64 {
        u64::try_from((u128::from(keys) * self.left) >> 64).unwrap_or(keys)
    }
}

/// Why a region is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Cursor,
    Renewal,
    Retry { attempt: u32 },
}

/// A sweep of due keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) id: SweepId,
    region: Prefix,
    turn: Turn,
    before: u32,
}

impl Planner {
    /// When a sweep of due keys may begin.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.running.is_some() || self.counts.keys == 0 {
            return None;
        }
        let retry = self.retries.next_at();
        let cursor = match self.renew {
            _ if self.retries.len() >= self.config.max_retries => None,
            Some(_) => Some(self.paced_until),
            None => Some(self.clock.instant(self.schedule.due_ms())),
        };
        retry.into_iter().chain(cursor).min().map(|at| at.max(self.paced_until))
    }

    /// Begins the next sweep of due keys, if one is due.
    pub(super) fn pump_due(&mut self, now: Instant) {
        if self.running.is_some() || self.counts.keys == 0 || self.paced_until > now {
            return;
        }
        let Some((region, turn, before)) = self.next_region(now) else { return };
        let now_ms = self.clock.ms(now);
        let id = self.next_id();
        // A key that was announced shortly before its turn waits for the next one.
        let recent_ms = now_ms - self.schedule.interval_ms / 10;
        let due = Due {
            before_unix: before.max(Clock::unix(recent_ms)),
            after_unix: Clock::unix(now_ms).saturating_add(MARK_SLACK_S),
        };
        let mut known_since = self.known_since(now);
        if let Some(renew) = self.renew {
            known_since = known_since.max(renew.since);
        }
        self.running = Some(Running { id, region, turn, before });
        self.paced_until = now + self.pace(&region);
        self.actions.push_back(ProvideAction::SweepDue { id, region, due, known_since });
    }

    /// Failed regions first, then all keys anew, then the cursor, which finds little to do after either.
    fn next_region(&mut self, now: Instant) -> Option<(Prefix, Turn, u32)> {
        let len = self.region_len();
        if let Some((region, retry)) = self.retries.take_due(len, self.config.max_retries, now) {
            return Some((region, Turn::Retry { attempt: retry.attempt }, retry.before));
        }
        if self.retries.len() >= self.config.max_retries {
            return None;
        }
        if let Some(renew) = self.renew {
            return Some((schedule::region_at(renew.cursor, len), Turn::Renewal, renew.before));
        }
        let now_ms = self.clock.ms(now);
        (self.schedule.due_ms() <= now_ms).then(|| (self.schedule.region(len), Turn::Cursor, 0))
    }

    /// How long a region takes at the highest rate: its share of the time for the whole keyspace.
    fn pace(&self, region: &Prefix) -> Duration {
        let by_keys =
            Duration::from_millis(self.counts.keys.saturating_mul(1000) / self.config.catch_up_keys);
        let whole = self.config.catch_up.min(by_keys);
        let nanos = (whole.as_nanos() * schedule::width(region)) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A sweep of due keys has ended: only now has the region had its turn.
    pub(super) fn due_swept(&mut self, running: &Running, outcome: SweepOutcome, now: Instant) {
        let now_ms = self.clock.ms(now);
        let mut attempt = 0;
        match running.turn {
            Turn::Cursor => self.schedule.advance(&running.region, now_ms),
            Turn::Renewal => self.advance_renewal(&running.region),
            Turn::Retry { attempt: before } => attempt = before,
        }
        if outcome.failed > 0 {
            let failed = Retry { attempt, at: now, before: running.before, keys: outcome.failed };
            self.retries.fail(running.region, failed, &self.config.retry, &mut self.rng, now);
        } else {
            self.retries.remove(&running.region);
        }
        self.schedule.clamp(now_ms);
        // A late cursor that passes over a few keys meets many regions without any: those need not be remembered one
        // by one.
        let caught_up = self.renew.is_none() && self.schedule.due_ms() > now_ms;
        if outcome.keys > 0 || caught_up || self.saved_at.is_none_or(|at| at + SAVE_EMPTY_AFTER <= now) {
            self.save(now);
        }
    }

    /// All keys are announced again, as fast as may be. One that is under way begins anew from where it is.
    pub(super) fn begin_renewal(&mut self, now: Instant) {
        self.renew_at = None;
        self.peers_before = self.peers.max(1);
        let cursor = self.renew.map_or(self.schedule.cursor, |renew| renew.cursor);
        // What is announced in this very second is not: it may have gone to the old network.
        let before = Clock::unix(self.clock.ms(now)).saturating_add(1);
        self.renew = Some(Renew { cursor, left: 1 << 64, before, since: now });
        self.save(now);
    }

    fn advance_renewal(&mut self, region: &Prefix) {
        let Some(renew) = &mut self.renew else { return };
        if renew.cursor != region.first().top() {
            return;
        }
        renew.cursor = schedule::after(region).0;
        renew.left = renew.left.saturating_sub(schedule::width(region));
        if renew.left == 0 {
            self.renew = None;
        }
    }

    pub(super) fn save(&mut self, now: Instant) {
        self.saved_at = Some(now);
        self.actions.push_back(ProvideAction::Save(self.saved(now).encode()));
    }

    /// What is kept for the next start. A sweep under way is done again then.
    pub(super) fn saved(&self, now: Instant) -> Saved {
        Saved {
            schedule: self.schedule,
            saved_ms: self.clock.ms(now),
            size: self.size.unwrap_or(0),
            len: self.len.unwrap_or(0),
            peers_before: u32::try_from(self.peers_before).unwrap_or(u32::MAX),
            renew_cursor: self.renew.map_or(0, |renew| renew.cursor),
            renew_left: self.renew.map_or(0, |renew| renew.left),
            renew_before: self.renew.map_or(0, |renew| renew.before),
            failed: self.failed_regions(),
        }
    }

    fn failed_regions(&self) -> Vec<(Prefix, u32)> {
        let running = self.running.as_ref().filter(|running| matches!(running.turn, Turn::Retry { .. }));
        let running = running.map(|running| (running.region, running.before));
        self.retries.iter().map(|(region, retry)| (*region, retry.before)).chain(running).collect()
    }

    /// Goes on from what an earlier run saved.
    pub(super) fn restore(&mut self, saved: Saved, now: Instant) {
        let now_ms = self.clock.ms(now);
        let mut schedule = saved.schedule;
        if schedule.interval_ms == self.schedule.interval_ms {
            schedule.on_step(saved.saved_ms, now_ms);
        } else {
            // Turns lie elsewhere now: go on with the cursor at once, at the rate of catching up.
            schedule = Schedule {
                last_cycle: schedule.last_cycle,
                ..Schedule::new(schedule.cursor, now_ms, self.config.interval)
            };
        }
        self.schedule = schedule;
        self.saved_at = Some(now);
        if saved.size > 0 {
            self.size = Some(saved.size);
            self.len = Some(saved.len);
        }
        self.peers_before = usize::try_from(saved.peers_before).unwrap_or(0);
        if saved.renew_left > 0 {
            let (cursor, left, before) = (saved.renew_cursor, saved.renew_left, saved.renew_before);
            self.renew = Some(Renew { cursor, left, before, since: now });
        }
        for (region, before) in saved.failed.into_iter().take(self.config.max_retries) {
            self.retries.insert(region, Retry { attempt: 0, at: now, before, keys: 0 });
        }
    }
}
