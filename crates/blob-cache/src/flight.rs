//! Single flight: at most one task works on a chunk, and everybody who wants it waits for that task's result.
//!
//! Knows chunks by number and tag, and results, not how a chunk is had. A flight ends in any case: when its task panics or is dropped with the
//! runtime, waiters learn that it was abandoned, and the next one starts anew.

use crate::CacheError;
use crate::claims::Tag;
use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use rafs_merkle::VerifiedChunk;
use std::collections::HashMap;
use std::collections::hash_map::{Entry, VacantEntry};
use std::sync::Arc;
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// How a flight ends.
pub(crate) type Landed = Result<VerifiedChunk, Arc<CacheError>>;
/// What passengers wait for.
pub(crate) type Seat = Shared<Receiver<Landed>>;

/// Number of a chunk, and the tag of what is said of it: images that say different things wait for different flights.
pub(crate) type Wanted = (u32, Tag);

/// A seat, and who started the flight.
type Running = (Seat, usize);

/// Running flights by chunk.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    running: Arc<Mutex<HashMap<Wanted, Running>>>,
}

/// The duty to end a flight. Dropping it ends the flight without a result.
#[derive(Debug)]
pub(crate) struct Landing {
    running: Arc<Mutex<HashMap<Wanted, Running>>>,
    chunk: Wanted,
    sender: Option<Sender<Landed>>,
}

impl Flights {
    /// Joins the flight for `chunk`, or starts one as `starter`: `depart` must make sure that the landing is used. Returns who started it, too.
    pub(crate) fn board(&self, chunk: Wanted, starter: usize, depart: impl FnOnce(Landing)) -> (Seat, usize) {
        let mut running = self.running.lock();
        let (seat, landing) = match running.entry(chunk) {
            Entry::Occupied(flight) => return flight.get().clone(),
            Entry::Vacant(free) => self.start(free, starter),
        };
        drop(running);
        depart(landing);
        (seat, starter)
    }
}

/// What to do for a chunk to become ready.
#[derive(Debug)]
pub(crate) enum Departure {
    /// Nothing.
    Ready,
    /// Wait for somebody else's flight.
    Theirs(Seat),
    /// Fly.
    Mine(Landing),
}

impl Flights {
    /// Joins the flight for `chunk`; or starts one as `starter`, which the caller must see to, unless the chunk `is_ready`. A chunk becomes ready before
    /// its flight ends, so that none is flown again by who comes just then.
    pub(crate) fn depart(&self, chunk: Wanted, starter: usize, is_ready: impl FnOnce() -> bool) -> Departure {
        let mut running = self.running.lock();
        match running.entry(chunk) {
            Entry::Occupied(flight) => Departure::Theirs(flight.get().0.clone()),
            Entry::Vacant(_) if is_ready() => Departure::Ready,
            Entry::Vacant(free) => Departure::Mine(self.start(free, starter).1),
        }
    }

    /// A new flight for a chunk that nobody flies.
    fn start(&self, free: VacantEntry<'_, Wanted, Running>, starter: usize) -> (Seat, Landing) {
        let (sender, receiver) = channel();
        let (running, chunk) = (Arc::clone(&self.running), *free.key());
        let (seat, _) = free.insert((receiver.shared(), starter)).clone();
        (seat, Landing { running, chunk, sender: Some(sender) })
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
        let seven = (7, Tag::of_test(1));
        let mut landing = None;
        let (first, _) = flights.board(seven, 1, |l| landing = Some(l));
        let (second, starter) = flights.board(seven, 2, |_| panic!("it is running"));
        assert_eq!(starter, 1);
        let mut other = false;
        let (said_otherwise, _) = flights.board((7, Tag::of_test(2)), 1, |_landing| other = true);
        assert!(other && said_otherwise.await.is_err());
        landing.unwrap().land(abandoned());
        assert!(first.await.unwrap().is_err() && second.await.unwrap().is_err());
        let mut again = false;
        let (third, _) = flights.board(seven, 1, |_landing| again = true);
        assert!(again, "a new flight starts after a landing");
        assert!(third.await.is_err(), "a dropped landing abandons the flight");
        assert!(flights.running.lock().is_empty());
    }
}
