//! The promises that libp2p's crates rely on.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_timer::Delay;
use tokio::time::Instant;

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(delay: &mut Delay, waker: &Waker) -> Poll<()> {
    Pin::new(delay).poll(&mut Context::from_waker(waker))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_delay_can_be_moved_between_threads_and_held_anywhere() {
    fn is<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    is::<Delay>();
}

#[test]
fn a_delay_may_be_made_outside_a_runtime_and_awaited_inside() {
    let mut delay = Delay::new(Duration::from_millis(1));
    delay.reset(Duration::from_millis(2));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    runtime.block_on(delay);
}

#[tokio::test(start_paused = true)]
async fn it_completes_when_its_time_has_come_and_not_before() {
    let start = Instant::now();
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut delay = Delay::new(SECOND);
    assert!(poll(&mut delay, &waker).is_pending());
    tokio::time::sleep(SECOND - Duration::from_millis(1)).await;
    assert!(poll(&mut delay, &waker).is_pending());
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(poll(&mut delay, &waker).is_ready());
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_when_it_was_made_not_from_the_first_poll() {
    let start = Instant::now();
    let delay = Delay::new(3 * SECOND);
    tokio::time::sleep(2 * SECOND).await;
    delay.await;
    assert_eq!(start.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_completed_delay_stays_complete_until_it_is_reset() {
    let start = Instant::now();
    let mut delay = Delay::new(SECOND);
    (&mut delay).await;
    (&mut delay).await;
    assert_eq!(start.elapsed(), SECOND);
    delay.reset(SECOND);
    (&mut delay).await;
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_is_woken_at_the_new_time_after_a_reset() {
    // Later, then earlier than what the waiting task knows of; it is not polled in between.
    for new in [5 * SECOND, SECOND] {
        let start = Instant::now();
        let mut delay = Delay::new(3 * SECOND);
        let mut is_first = true;
        poll_fn(|context| {
            let polled = Pin::new(&mut delay).poll(context);
            if std::mem::take(&mut is_first) {
                delay.reset(new);
                return Poll::Pending;
            }
            polled
        })
        .await;
        assert_eq!(start.elapsed(), new);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_before_the_first_poll_counts() {
    let start = Instant::now();
    let mut delay = Delay::new(60 * SECOND);
    delay.reset(SECOND);
    delay.await;
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_completes_at_the_first_poll() {
    let start = Instant::now();
    Delay::new(Duration::ZERO).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_longest_duration_waits_instead_of_panicking() {
    let mut delay = Delay::new(Duration::MAX);
    assert!(poll(&mut delay, Waker::noop()).is_pending());
    tokio::time::advance(Duration::from_secs(365 * 24 * 60 * 60)).await;
    assert!(poll(&mut delay, Waker::noop()).is_pending());
    delay.reset(Duration::MAX);
    assert!(poll(&mut delay, Waker::noop()).is_pending());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_complete_in_a_real_runtime_each_not_before_its_time() {
    let tasks: Vec<_> = (0..4_000u64)
        .map(|number| {
            tokio::spawn(async move {
                let (start, wait) = (Instant::now(), Duration::from_millis(number % 50));
                Delay::new(wait).await;
                assert!(start.elapsed() >= wait);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delay_wakes_nobody() {
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut delay = Delay::new(SECOND);
    assert!(poll(&mut delay, &waker).is_pending());
    drop(delay);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
}
