//! Where the trace of every network of a run goes, if anybody wants it line by line.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

use crate::net::{Net, TraceSink};

thread_local! {
    static SINK: RefCell<Option<Arc<Mutex<TraceSink>>>> = const { RefCell::new(None) };
}

/// From now on every event in worlds made on this thread goes to `sink`, one call each.
pub fn trace_to(sink: TraceSink) {
    SINK.set(Some(Arc::new(Mutex::new(sink))));
}

/// Connects a new network to the sink of this thread.
pub(crate) fn attach(net: &Net) {
    let Some(sink) = SINK.with_borrow(Clone::clone) else { return };
    net.set_trace_sink(Some(Box::new(move |event| {
        (*sink.lock().unwrap_or_else(PoisonError::into_inner))(event);
    })));
}
