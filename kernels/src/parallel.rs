//! When is work worth a second thread, and how does that thread get it?
//!
//! [`split`] hands parts to the ambient pool of rayon: nothing is allocated, and a part that a busy core does not get to is
//! taken by another. By `rayon::join` that costs microseconds, which a decode step, a hundred times a token some microseconds
//! of work, does not have. So within [`together`] the pool's other threads stand by, and a part costs them one look at a
//! counter. A region of work waits for those alone that came to it. Who gets nothing to do for a while, or sees that other
//! work wants a thread ([`on`]), goes back to the pool.

use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::ops::Range;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{panicking, yield_now};

/// Nanoseconds on one thread, about, that are worth handing to another one: by `rayon::join`, and to one that stands by.
const WORTH: usize = 8_000;
const WORTH_TOGETHER: usize = 1_000;
/// Looks for work before a thread that stands by lets others have its core, and how often it lets them before it goes: tens of
/// microseconds, and about a millisecond where nobody else wants the core.
const LOOKS: usize = 500;
const YIELDS: usize = 2000;
/// Most homes of a region.
const HOMES: usize = 16;
/// [`Team::turn`] when there will be no more regions.
const OVER: usize = usize::MAX;

/// Calls of [`on`] that have no thread yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The team that this thread leads, while it is free for a region.
    static TEAM: Cell<*const Team> = const { Cell::new(null()) };
}

/// Calls `work` with ranges that cover `0..n` exactly; an item costs `cost` nanoseconds on one thread, about.
pub(crate) fn split(n: usize, cost: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    fn halves(range: Range<usize>, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
        if range.len() <= grain {
            return work(range);
        }
        let middle = range.start + range.len() / 2;
        rayon::join(|| halves(range.start..middle, grain, work), || halves(middle..range.end, grain, work));
    }
    let (threads, team) = (rayon::current_num_threads(), TEAM.get());
    let least = |worth: usize| (worth / cost.max(1)).max(1);
    if n == 0 {
    } else if threads == 1 || n <= least(if team.is_null() { WORTH } else { WORTH_TOGETHER }) {
        work(0..n);
    } else if team.is_null() {
        halves(0..n, least(WORTH).max(n.div_ceil(4 * threads)), work);
    } else {
        // SAFETY: `together`, which set it on this thread, has not returned: it takes it away before.
        unsafe { &*team }.region(n, least(WORTH_TOGETHER), work);
    }
}

/// Runs `work` on a thread of `pool`. Until it has one, no thread stands by for [`together`].
pub fn on<R: Send>(pool: &rayon::ThreadPool, work: impl FnOnce() -> R + Send) -> R {
    if pool.current_thread_index().is_some() {
        return work();
    }
    WAITING.fetch_add(1, Ordering::Relaxed);
    pool.install(|| {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        work()
    })
}

/// Runs `work` while other threads of the ambient pool stand by for its parts: for work of many short operations in a row, such
/// as a decode step. Bits do not depend on it. Parts themselves should not ask for threads.
///
/// # Panics
/// When `work` or a part of it does.
pub fn together<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads();
    if threads == 1 || !TEAM.get().is_null() {
        return work();
    }
    let team = Team::default();
    let lead = || {
        // Also where `work` panics: who stands by must go, and no one may find a team that is gone.
        struct Dismiss<'a>(&'a Team);
        impl Drop for Dismiss<'_> {
            fn drop(&mut self) {
                TEAM.set(null());
                self.0.turn.0.store(OVER, Ordering::Release);
                // `join` would take up other work, however long, for the moment that they need to see it.
                let mut looks = 0;
                while self.0.standing.0.load(Ordering::Acquire) != 0 && looks < LOOKS {
                    looks += 1;
                    spin_loop();
                }
            }
        }
        let _dismiss = Dismiss(&team);
        TEAM.set(&raw const team);
        work()
    };
    rayon::join(lead, || team.stand_by(1..threads)).0
}

/// One thread that leads, and those that stand by.
#[derive(Default)]
struct Team {
    /// Odd while a region is open, and another number for each; then [`OVER`].
    turn: Alone<AtomicUsize>,
    /// Threads that look at `region`, or are about to see that it is not theirs to look at.
    inside: Alone<AtomicUsize>,
    /// Of each home, the next item that nobody has.
    next: [Alone<AtomicUsize>; HOMES],
    /// Threads that the region has parts for, beside the leader: where it is short, no more of them come in each other's way.
    wanted: Alone<AtomicUsize>,
    /// The leader did about its share of the region before.
    even: AtomicBool,
    /// Threads that stand by.
    standing: Alone<AtomicUsize>,
    /// A part panicked on another thread.
    failed: AtomicBool,
    region: UnsafeCell<Option<Region>>,
}

/// Parts of one call of [`split`].
struct Region {
    work: *const (dyn Fn(Range<usize>) + Sync),
    n: usize,
    /// Items of a part, at least.
    least: usize,
    /// Equal ranges of items, each of which is some threads' own: parts that follow one another in memory then go to one thread, whose
    /// core has asked for what comes next. Who is done with its home helps in others.
    homes: usize,
    /// The part of what is left of a home that one takes is one of so many.
    shares: usize,
    /// Threads are about as fast as one another, as far as is known: each begins with three quarters of its home. Elsewhere the slow
    /// ones would end last.
    even: bool,
}

impl Region {
    /// Where home `home` begins.
    fn start(&self, home: usize) -> usize {
        self.n * home / self.homes
    }
}

/// On cache lines of its own (two: processors read them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Alone<T>(T);

// SAFETY: `region` is written by the leader alone, while no region is open and nobody is inside; others look at it only inside, after
// they have seen that the region of their turn is open. What it points to outlives the region: `region` waits until nobody is inside.
unsafe impl Sync for Team {}

impl Team {
    /// Opens a region, takes part in it, and returns when all of it is done. Called by the leader, outside of regions.
    fn region(&self, n: usize, least: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        struct Close<'a>(&'a Team);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                // Sequentially consistent, as `inside` and `turn` in `stand_by`: either the leader sees that one is inside, or that one
                // sees that the region is closed.
                self.0.turn.0.fetch_add(1, Ordering::SeqCst);
                let mut looks = 0;
                while self.0.inside.0.load(Ordering::SeqCst) != 0 {
                    looks += 1;
                    if looks < LOOKS { spin_loop() } else { yield_now() }
                }
                TEAM.set(self.0);
            }
        }
        // SAFETY: only the lifetime goes, as said at `Sync`.
        let work = unsafe { std::mem::transmute::<*const _, *const _>(&raw const *work) };
        let parts = n.div_ceil(least);
        let threads = rayon::current_num_threads();
        let homes = parts.min(threads).min(HOMES);
        let (shares, even) = (threads.div_ceil(homes) + 1, self.even.load(Ordering::Relaxed));
        let region = Region { work, n, least, homes, shares, even: even && shares == 2 };
        (0..region.homes).for_each(|home| self.next[home].0.store(region.start(home), Ordering::Relaxed));
        // SAFETY: no region is open and nobody inside.
        unsafe { *self.region.get() = Some(region) };
        self.wanted.0.store(parts - 1, Ordering::Relaxed);
        self.turn.0.fetch_add(1, Ordering::SeqCst);
        TEAM.set(null());
        let close = Close(self);
        let done = self.take_parts(0);
        drop(close);
        if n >= 8 * homes {
            // With three quarters of each home taken at once, the fastest of two gets five eighths.
            self.even.store((4 * n..=6 * n).contains(&(5 * homes * done)), Ordering::Relaxed);
        }
        assert!(!self.failed.load(Ordering::Relaxed), "a part panicked on another thread");
    }

    /// Parts of the open region, until there are none; how many items they were. Called by the leader, number 0, and inside.
    fn take_parts(&self, number: usize) -> usize {
        // SAFETY: the region is open, or about to be closed by one who waits for this thread.
        let Some(region) = (unsafe { &*self.region.get() }) else { return 0 };
        let mut done = 0;
        // SAFETY: as above: what it points to lives as long.
        let work = unsafe { &*region.work };
        for home in (number..number + region.homes).map(|home| home % region.homes) {
            let (start, end) = (region.start(home), region.start(home + 1));
            // A share of what is left, so that all end at about the same time.
            let until = |first: usize| {
                let left = end - first;
                let share = if first == start && region.even { left * 3 / 4 } else { left / region.shares };
                first + region.least.max(share).min(left)
            };
            let next = &self.next[home].0;
            while let Ok(first) =
                next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| (first < end).then(|| until(first)))
            {
                work(first..until(first));
                done += until(first) - first;
            }
        }
        done
    }

    /// Takes part in regions until there are no more, or none for a while; on as many threads as come, each with one of `numbers`.
    fn stand_by(&self, numbers: Range<usize>) {
        if numbers.len() > 1 {
            let middle = numbers.start + numbers.len() / 2;
            rayon::join(|| self.stand_by(numbers.start..middle), || self.stand_by(middle..numbers.end));
            return;
        }
        struct Leave<'a>(&'a AtomicUsize, &'a AtomicBool);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                if panicking() {
                    self.1.store(true, Ordering::Relaxed);
                }
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        self.standing.0.fetch_add(1, Ordering::Relaxed);
        let _standing = Leave(&self.standing.0, &self.failed);
        let (mut seen, mut looks) = (0, 0);
        while looks < LOOKS + YIELDS {
            let turn = self.turn.0.load(Ordering::Acquire);
            if turn == OVER || WAITING.load(Ordering::Relaxed) != 0 {
                return;
            }
            let wanted = || self.inside.0.load(Ordering::Relaxed) < self.wanted.0.load(Ordering::Relaxed);
            if turn % 2 == 1 && turn != seen && wanted() {
                self.inside.0.fetch_add(1, Ordering::SeqCst);
                let _leave = Leave(&self.inside.0, &self.failed);
                if self.turn.0.load(Ordering::SeqCst) == turn {
                    self.take_parts(numbers.start);
                }
                (seen, looks) = (turn, 0);
            } else {
                looks += 1;
                if looks < LOOKS { spin_loop() } else { yield_now() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU8};
    use std::time::Duration;

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
    }

    /// Splits `n` items and counts how often each was done.
    fn counted(n: usize, cost: usize, inner: &(dyn Fn() + Sync)) {
        let done: Vec<AtomicU8> = (0..n).map(|_| AtomicU8::new(0)).collect();
        split(n, cost, &|part| {
            assert!(!part.is_empty());
            for i in part {
                done[i].fetch_add(1, Ordering::Relaxed);
                inner();
            }
        });
        assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{n} items of {cost} ns");
    }

    #[test]
    fn every_item_is_done_once() {
        for threads in [1, 2, 3, 8, 17, 40] {
            pool(threads).install(|| {
                let all = || {
                    for n in [0, 1, 2, 3, 7, 64, 1000] {
                        for cost in [0, 1, 300, 2_000, 1_000_000] {
                            counted(n, cost, &|| ());
                        }
                    }
                };
                all();
                together(all);
                together(|| together(all));
                together(|| counted(5, 1_000_000, &|| counted(9, 100_000, &|| ())));
                (0..200).for_each(|_| together(|| (0..20).for_each(|_| counted(16, 1_000, &|| ()))));
            });
        }
    }

    #[test]
    fn another_thread_takes_part() {
        let threads = Mutex::new(std::collections::BTreeSet::new());
        pool(2).install(|| {
            together(|| {
                let wait = || std::thread::sleep(Duration::from_millis(2));
                (0..500).take_while(|_| threads.lock().expect("no panic").len() < 2).for_each(|_| {
                    split(8, 2_000_000, &|_| {
                        wait();
                        threads.lock().expect("no panic").insert(rayon::current_thread_index());
                    });
                });
            });
        });
        assert_eq!(threads.lock().expect("no panic").len(), 2);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_does_not_come() {
        let (busy, done) = (AtomicBool::new(false), AtomicBool::new(false));
        pool(2).install(|| {
            rayon::join(
                || {
                    while !busy.load(Ordering::Acquire) {
                        yield_now();
                    }
                    together(|| (0..100).for_each(|_| counted(16, 10_000, &|| ())));
                    done.store(true, Ordering::Release);
                },
                || {
                    busy.store(true, Ordering::Release);
                    // Holds the other thread until all is done without it.
                    while !done.load(Ordering::Acquire) {
                        yield_now();
                    }
                },
            );
        });
    }

    #[test]
    fn who_waits_for_a_thread_gets_one_that_stands_by() {
        let (pool, helped, came) = (pool(2), AtomicBool::new(false), AtomicBool::new(false));
        let began = std::time::Instant::now();
        let in_time = || began.elapsed() < Duration::from_secs(60); // or never: the test fails then
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !helped.load(Ordering::Acquire) && in_time() {
                    yield_now();
                }
                on(&pool, || came.store(true, Ordering::Release));
            });
            let came_meanwhile = on(&pool, || {
                let leader = rayon::current_thread_index();
                together(|| {
                    while !came.load(Ordering::Acquire) && in_time() {
                        split(8, 10_000, &|_| {
                            if rayon::current_thread_index() != leader {
                                helped.store(true, Ordering::Release);
                            }
                            (0..100).for_each(|_| spin_loop());
                        });
                    }
                    came.load(Ordering::Acquire)
                })
            });
            assert!(came_meanwhile, "it came only when nobody stood by any more");
        });
    }

    #[test]
    fn nobody_takes_part_while_another_waits() {
        let (team, taken) = (Team::default(), AtomicBool::new(false));
        let work = |_: Range<usize>| taken.store(true, Ordering::Relaxed);
        let open = |team: &Team| {
            let work: *const (dyn Fn(Range<usize>) + Sync) = &raw const work;
            // SAFETY: nobody is inside; only the lifetime goes, and `work` outlives the test's use of it.
            unsafe {
                *team.region.get() =
                    Some(Region { work: std::mem::transmute::<*const _, *const _>(work), n: 1, least: 1, homes: 1, shares: 2, even: false })
            };
            team.wanted.0.store(1, Ordering::Relaxed);
            team.turn.0.store(1, Ordering::SeqCst);
        };
        open(&team);
        WAITING.fetch_add(1, Ordering::Relaxed);
        team.stand_by(1..2);
        let meanwhile = taken.load(Ordering::Relaxed);
        WAITING.fetch_sub(1, Ordering::Relaxed);
        assert!(!meanwhile, "it took part");
        // More than once, since other tests wait for threads too.
        (0..1000).take_while(|_| !taken.load(Ordering::Relaxed)).for_each(|_| team.stand_by(1..2));
        assert!(taken.load(Ordering::Relaxed), "there was nothing to take part in");
    }

    fn caught(work: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_whole() {
        let pool = pool(3);
        for culprit in [0, 30, 63] {
            let work = || split(64, 100_000, &|part| assert!(!part.contains(&culprit), "item {culprit}, as the test wants"));
            assert!(caught(|| pool.install(|| together(work))), "item {culprit}");
            pool.install(|| together(|| counted(64, 100_000, &|| ())));
        }
        assert!(caught(|| pool.install(|| together(|| panic!("as the test wants")))));
        pool.install(|| counted(64, 100_000, &|| ()));
    }
}
