//! Single flight: at most one task works on a chunk, and everybody who wants it waits for that task's result.
//!
//! Knows chunk indexes and results, not how a chunk is had. A flight ends in any case: when its task panics or is dropped with the
//! runtime, waiters learn that it was abandoned, and the next one starts anew.

use crate::CacheError;
use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use rafs_merkle::VerifiedChunk;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// How a flight ends.
pub(crate) type Landed = Result<VerifiedChunk, Arc<CacheError>>;
/// What passengers wait for.
pub(crate) type Seat = Shared<Receiver<Landed>>;

/// Running flights by chunk index.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    running: Arc<Mutex<HashMap<u32, Seat>>>,
}

/// The duty to end a flight. Dropping it ends the flight without a result.
#[derive(Debug)]
pub(crate) struct Landing {
    running: Arc<Mutex<HashMap<u32, Seat>>>,
    chunk: u32,
    sender: Option<Sender<Landed>>,
}

impl Flights {
    /// Joins the flight for `chunk`, or starts one: `depart` must make sure that the landing is used.
    pub(crate) fn board(&self, chunk: u32, depart: impl FnOnce(Landing)) -> Seat {
        let mut running = self.running.lock();
        let (seat, landing) = match running.entry(chunk) {
            Entry::Occupied(flight) => return flight.get().clone(),
            Entry::Vacant(free) => {
                let (sender, receiver) = channel();
                let seat = free.insert(receiver.shared()).clone();
                (seat, Landing { running: Arc::clone(&self.running), chunk, sender: Some(sender) })
            }
        };
        drop(running);
        depart(landing);
        seat
    }
}

impl Landing {
    /// Ends the flight with `result`. Later comers start a new one.
    pub(crate) fn land(mut self, result: Landed) {
        self.running.lock().remove(&self.chunk);
        if let Some(sender) = self.sender.take() {
            // All passengers may have gone.
            let _told = sender.send(result).is_ok();
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.running.lock().remove(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abandoned() -> Landed {
        Err(Arc::new(CacheError::Abandoned { blob: "b".into(), chunk: 7 }))
    }

    #[tokio::test]
    async fn passengers_share_a_flight_until_it_lands() {
        let flights = Flights::default();
        let mut landing = None;
        let first = flights.board(7, |l| landing = Some(l));
        let second = flights.board(7, |_| panic!("it is running"));
        landing.unwrap().land(abandoned());
        assert!(first.await.unwrap().is_err() && second.await.unwrap().is_err());
        let mut again = false;
        let third = flights.board(7, |_landing| again = true);
        assert!(again, "a new flight starts after a landing");
        assert!(third.await.is_err(), "a dropped landing abandons the flight");
        assert!(flights.running.lock().is_empty());
    }
}
