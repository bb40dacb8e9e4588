//! Threads that stand by for many short pieces of work.
//!
//! One token takes some forty rounds of products, of tens of microseconds each: less than it takes to wake a thread that sleeps.
//! A team is woken once for all of them and waits for the next round awake. Whoever of it is late, or has no processor,
//! misses a round without holding it up.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Turns of waiting before a helper lets other threads have its processor.
const PATIENCE: usize = 4096;

/// A round of work: `call` runs piece number i of what `data` points to.
#[derive(Clone, Copy)]
struct Round {
    call: unsafe fn(*const (), usize),
    data: *const (),
    pieces: usize,
}

/// What a team shares. `round` is written only while no helper is in a round: `open` is false and `inside` 0.
struct Shared {
    round: Cell<Round>,
    open: AtomicBool,
    inside: AtomicUsize,
    next: AtomicUsize,
    over: AtomicBool,
}

// SAFETY: the one field that is not atomic is written and read as said above; what `data` points to is `Sync`.
unsafe impl Sync for Shared {}

thread_local! {
    /// The team that stands by for this thread.
    static TEAM: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// Does `work` while all other threads of the pool stand by for what it gives to [`each`].
pub fn assembled<R>(work: impl FnOnce() -> R) -> R {
    let helpers = rayon::current_num_threads() - 1;
    if helpers == 0 || !TEAM.get().is_null() {
        return work();
    }
    unsafe fn nothing(_: *const (), _: usize) {}
    let shared = Shared {
        round: Cell::new(Round { call: nothing, data: ptr::null(), pieces: 0 }),
        open: AtomicBool::new(false),
        inside: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    /// Lets helpers go home, also when the work panics.
    struct Dismissed<'a>(&'a Shared);
    impl Drop for Dismissed<'_> {
        fn drop(&mut self) {
            TEAM.set(ptr::null());
            self.0.over.store(true, SeqCst);
        }
    }
    rayon::in_place_scope(|scope| {
        let shared = &shared;
        (0..helpers).for_each(|_| scope.spawn(move |_| shared.help()));
        TEAM.set(shared);
        let _dismissed = Dismissed(shared);
        work()
    })
}

/// Whether a team stands by for this thread.
pub fn stands_by() -> bool {
    !TEAM.get().is_null()
}

/// Runs all pieces, on all threads of the team that stands by for this one, if any.
pub(crate) fn each<F: Fn(usize) + Sync>(pieces: usize, work: F) {
    // SAFETY: `assembled` clears the pointer before what it points to goes, and it is only this thread's.
    let Some(shared) = (unsafe { TEAM.get().as_ref() }).filter(|_| pieces > 1) else {
        return (0..pieces).for_each(work);
    };
    unsafe fn call<F: Fn(usize) + Sync>(data: *const (), piece: usize) {
        // SAFETY: `data` is the `work` below, which outlives the round.
        (unsafe { &*data.cast::<F>() })(piece);
    }
    shared.round.set(Round { call: call::<F>, data: (&raw const work).cast(), pieces });
    shared.next.store(0, SeqCst);
    /// Ends a round when all who are in it are done, also when a piece of this thread panics.
    struct Ended<'a>(&'a Shared, usize);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.next.store(self.1, SeqCst);
            self.0.open.store(false, SeqCst);
            wait(|| self.0.inside.load(SeqCst) == 0);
        }
    }
    let _ended = Ended(shared, pieces);
    shared.open.store(true, SeqCst);
    shared.take_part(&work, pieces);
}

/// What `work` makes of every piece, in order, on all threads of the team that stands by for this one, if any.
pub fn each_of<T: Send>(pieces: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let made: Vec<Mutex<Option<T>>> = (0..pieces).map(|_| Mutex::new(None)).collect();
    // Nobody else has the lock of a piece.
    let put = |piece: usize| *made[piece].lock().unwrap_or_else(PoisonError::into_inner) = Some(work(piece));
    each(pieces, put);
    made.into_iter().filter_map(|made| made.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

impl Shared {
    fn help(&self) {
        /// Leaves a round, also when a piece panics.
        struct Leaving<'a>(&'a Shared);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                self.0.inside.fetch_sub(1, SeqCst);
            }
        }
        loop {
            wait(|| self.over.load(SeqCst) || self.open.load(SeqCst));
            if self.over.load(SeqCst) {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            let _leaving = Leaving(self);
            // Either this sees that the round is over, or who ends it sees this inside.
            if self.open.load(SeqCst) {
                let Round { call, data, pieces } = self.round.get();
                // SAFETY: the round is open, so its work is there until `inside` is 0 again.
                self.take_part(|piece| unsafe { call(data, piece) }, pieces);
            }
        }
    }

    fn take_part(&self, work: impl Fn(usize), pieces: usize) {
        loop {
            let piece = self.next.fetch_add(1, SeqCst);
            if piece >= pieces {
                return;
            }
            work(piece);
        }
    }
}

fn wait(until: impl Fn() -> bool) {
    let mut turns = 0;
    while !until() {
        turns += 1;
        match turns < PATIENCE {
            true => std::hint::spin_loop(),
            false => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn every_piece_is_done_once() {
        for threads in [1, 2, 3, 8] {
            pool(threads).install(|| {
                assembled(|| {
                    for round in 0..2000 {
                        let done: Vec<AtomicU64> = (0..round % 37).map(|_| AtomicU64::new(0)).collect();
                        each(done.len(), |piece| {
                            done[piece].fetch_add(1, SeqCst);
                        });
                        assert!(done.iter().all(|count| count.load(SeqCst) == 1), "{threads} threads");
                    }
                    assert_eq!(stands_by(), threads > 1);
                });
                assert!(!stands_by());
            });
        }
        assert_eq!(pool(3).install(|| assembled(|| each_of(5, |piece| 2 * piece))), [0, 2, 4, 6, 8]);
        let sum = AtomicU64::new(0);
        each(4, |piece| {
            sum.fetch_add(piece as u64, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 6);
    }

    #[test]
    fn a_panic_ends_the_round_and_the_team() {
        let failed = std::panic::catch_unwind(|| {
            pool(3).install(|| assembled(|| each(64, |piece| assert!(piece != 40, "as it should"))));
        });
        assert!(failed.is_err());
        pool(2).install(|| assembled(|| assembled(|| each(2, |_| {}))));
    }
}
