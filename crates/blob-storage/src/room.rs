//! How many bytes may be on their way at once, over all readers that share a [`Room`]: the answer to a thousand reads at once is not a
//! gigabyte of buffers. Who waits for a file goes first; prefetch gets half of the room at most, so that it never fills it for others.

use crate::{BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes that may be on their way.
#[derive(Debug)]
pub struct Room {
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// By prefetch, part of `used`.
    used_later: u64,
    /// Each in order of coming.
    now: VecDeque<Waiting>,
    later: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    seat: oneshot::Sender<Taken>,
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
struct Taken {
    room: Arc<Room>,
    bytes: u64,
    priority: Priority,
}

impl Drop for Taken {
    fn drop(&mut self) {
        {
            let mut state = self.room.state.lock();
            state.used -= self.bytes;
            if self.priority == Priority::Prefetch {
                state.used_later -= self.bytes;
            }
        }
        Room::admit(&self.room);
    }
}

impl Room {
    /// Room for `size` bytes.
    pub fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, state: Mutex::default() })
    }

    /// Bytes that are on their way now.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Most that one priority may take.
    fn share(&self, priority: Priority) -> u64 {
        match priority {
            Priority::OnDemand => self.size,
            Priority::Prefetch => self.size / 2,
        }
    }

    /// Takes room for `bytes`, as soon as there is some. Who wants more than there is gets all of it.
    async fn take(self: &Arc<Self>, bytes: u64, priority: Priority) -> Option<Taken> {
        let bytes = bytes.min(self.share(priority));
        let (seat, wait) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let queue = match priority {
                Priority::OnDemand => &mut state.now,
                Priority::Prefetch => &mut state.later,
            };
            queue.push_back(Waiting { bytes, seat });
        }
        Self::admit(self);
        // Never dropped without being sent.
        wait.await.ok()
    }

    /// Lets in who can be let in.
    fn admit(room: &Arc<Self>) {
        while let Some((waiting, priority)) = room.next() {
            let taken = Taken { room: Arc::clone(room), bytes: waiting.bytes, priority };
            // Who has gone away gives the room back, here and not under the lock.
            drop(waiting.seat.send(taken));
        }
    }

    /// The next one for whom there is room, which is his from now on.
    fn next(&self) -> Option<(Waiting, Priority)> {
        let mut state = self.state.lock();
        let State { used, used_later, now, later } = &mut *state;
        let fits = |bytes: u64, used: u64, priority| used.saturating_add(bytes) <= self.share(priority);
        if let Some(first) = now.front() {
            // Nobody overtakes who waits for a file.
            let bytes = first.bytes;
            return fits(bytes, *used, Priority::OnDemand).then(|| {
                *used += bytes;
                now.pop_front().map(|one| (one, Priority::OnDemand))
            })?;
        }
        let bytes = later.front()?.bytes;
        let both = fits(bytes, *used, Priority::OnDemand) && fits(bytes, *used_later, Priority::Prefetch);
        both.then(|| {
            *used += bytes;
            *used_later += bytes;
            later.pop_front().map(|one| (one, Priority::Prefetch))
        })?
    }
}

/// A reader that waits for room for what it reads.
#[derive(Debug)]
pub struct Roomy<R> {
    inner: R,
    room: Arc<Room>,
}

impl<R: BlobReader> Roomy<R> {
    /// `inner`, whose bytes on their way are in `room`.
    pub fn new(inner: R, room: Arc<Room>) -> Self {
        Self { inner, room }
    }

    async fn inside(
        &self,
        range: Range<u64>,
        priority: Priority,
        read: BoxFuture<'_, Result<Bytes, BackendError>>,
    ) -> Result<Bytes, BackendError> {
        let _taken = self.room.take(range.end.saturating_sub(range.start), priority).await;
        read.await
    }
}

impl<R: BlobReader> BlobReader for Roomy<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(self.inside(range.clone(), priority, self.inner.read(range, priority)))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(self.inside(range.clone(), priority, self.inner.read_checked(range, priority, check)))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        self.inner.size()
    }
}
