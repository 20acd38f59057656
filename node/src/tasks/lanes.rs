//! Serves the lanes of others: what they ask for goes the way of every request.

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::ended;
use crate::net::{Lanes, NetEvent};

/// Events of all lanes together that wait for the dispatcher. When it is full, lanes wait, and with them whoever asks.
pub const MAX_WAITING_LANE_EVENTS: usize = 256;

/// Runs lanes until `shutdown` turns true or the network ends.
pub async fn run(mut lanes: Lanes, events: mpsc::Sender<NetEvent>, mut shutdown: watch::Receiver<bool>) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = ended(&mut shutdown) => return,
            lane = lanes.next() => match lane {
                Some(lane) => running.push(lane.run(events.clone())),
                None => return,
            },
            Some(()) = running.next() => {}
        }
    }
}
