//! Faults drawn from the seed, added to whatever a plan does.
//!
//! The first three quarters of the run are the fault phase: weather, crashes with and without a power cut, machines
//! that sleep or are not heard, partitions, wrong clocks. In the last quarter everything is mended, and the network
//! must be well again: tables, lookups and gets.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{DiskFate, Event, Plan, What, Who, time::Millis};
use crate::derive_seed;

/// Faults in an hour, about.
const PER_HOUR: f64 = 12.0;

/// Least length of the healthy phase: tables have ten minutes to recover.
const QUIET: Duration = Duration::from_secs(15 * 60);

/// When in the healthy phase gets must complete again: nodes have come back and announced what they hold by then.
const MENDS: Duration = Duration::from_secs(QUIET.as_secs() / 2);

/// Most faults in one run.
const MAX_FAULTS: usize = 2_000;

/// Adds faults to the plan. The same seed adds the same.
pub fn add(plan: &mut Plan, seed: u64) {
    let mut rng = StdRng::seed_from_u64(derive_seed(seed, "chaos"));
    let duration = plan.duration.duration();
    let phase = duration.mul_f64(0.75).min(duration.saturating_sub(QUIET)).max(duration / 4);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let count = ((phase.as_secs_f64() / 3600.0 * PER_HOUR).ceil() as usize).clamp(3, MAX_FAULTS);
    for _ in 0..count {
        let at = phase.mul_f64(unit(&mut rng));
        // Long enough to hurt, and over before the healthy phase begins.
        let lasts = Duration::from_secs_f64(5.0 + unit(&mut rng) * 300.0).min(phase - at);
        let what = draw(&mut rng, lasts.max(Duration::from_millis(1)).into());
        plan.events.push(Event { at: at.into(), what });
    }
    // Before that a fault may keep the only holder from everybody: then a get that fails is nobody's failing.
    plan.expect.mended_from = Some((phase + MENDS).into());
    // What must work again when all is mended.
    if !plan.contents.is_empty() && duration >= phase + QUIET {
        let who = Who::up_to(5);
        let timeout = Millis::from_secs(120);
        let at = (phase + MENDS).into();
        plan.events.push(Event { at, what: What::Get { who, content: None, within: Millis::ZERO, timeout } });
        plan.expect.tables_recover = true;
    }
}

fn draw(rng: &mut StdRng, lasts: Millis) -> What {
    let share = 0.05 + unit(rng) * 0.3;
    let who = Who::share(share);
    match rng.next_u64() % 8 {
        0 => {
            let first = 0.2 + unit(rng) * 0.6;
            What::partition(&[first, 1.0 - first], lasts)
        }
        1 => What::Mute { who, lasts },
        2 => What::Sleep { who, lasts },
        3 => {
            What::Weather { loss: unit(rng) * 0.05, jitter: Millis::from_millis(rng.next_u64() % 100), lasts }
        }
        4 => {
            // Up to two days, both ways.
            let secs = i64::try_from(rng.next_u64() % (4 * 86_400)).unwrap_or(0) - 2 * 86_400;
            What::ClockJump { who, secs }
        }
        5 => What::Kill { who, disk: DiskFate::Kept, back_after: Some(lasts) },
        6 => What::Kill { who: Who::up_to(1), disk: DiskFate::Lost, back_after: Some(lasts) },
        _ => What::Kill { who, disk: DiskFate::Torn, back_after: Some(lasts) },
    }
}

fn unit(rng: &mut StdRng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::super::builtin;
    use super::*;

    #[test]
    fn faults_follow_from_the_seed_and_end_before_the_healthy_phase() {
        let draw = |seed| {
            let mut plan = builtin::named("churn24").unwrap();
            let own = plan.events.len();
            add(&mut plan, seed);
            plan.check().unwrap();
            plan.events.split_off(own)
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let events = draw(1);
        assert!(events.len() > 100, "{}", events.len());
        let phase = builtin::named("churn24").unwrap().duration.duration().mul_f64(0.75);
        assert!(
            events
                .iter()
                .filter(|event| event.what.is_fault())
                .all(|event| event.at.duration() + event.what.lasts() <= phase + Duration::from_millis(2))
        );
    }

    #[test]
    fn a_long_run_draws_every_kind_of_fault() {
        let mut plan = builtin::named("churn24").unwrap();
        add(&mut plan, 3);
        let kinds: std::collections::BTreeSet<String> = plan
            .events
            .iter()
            .map(|e| e.what.to_string().split([' ', ',']).next().unwrap().to_owned())
            .collect();
        for kind in ["partition", "not", "asleep", "loss", "clock", "death"] {
            assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
        }
    }
}
