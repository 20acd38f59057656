//! Serves the lanes of others: what they ask for goes the way of every request.

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::ended;
use crate::net::{LaneServe, Lanes, NetEvent};

/// Events of all lanes together that wait for the dispatcher. When it is full, lanes wait, and with them whoever asks.
pub const MAX_WAITING_LANE_EVENTS: usize = 256;

/// Lanes that have their place and wait to be run.
pub const MAX_WAITING_LANES: usize = 64;

/// Gives lanes their places, until nobody runs them or the network ends. A task of its own, because one lane only can wait for
/// it: another that comes meanwhile is lost.
pub async fn accept(mut lanes: Lanes, placed: mpsc::Sender<LaneServe>) {
    loop {
        let lane = tokio::select! {
            () = placed.closed() => return,
            lane = lanes.next() => lane,
        };
        let Some(lane) = lane else { return };
        if placed.send(lane).await.is_err() {
            return;
        }
    }
}

/// Runs lanes until `shutdown` turns true or no more come.
pub async fn run(
    mut placed: mpsc::Receiver<LaneServe>,
    events: mpsc::Sender<NetEvent>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = ended(&mut shutdown) => return,
            lane = placed.recv() => match lane {
                Some(lane) => running.push(lane.run(events.clone())),
                None => return,
            },
            Some(()) = running.next() => {}
        }
    }
}
