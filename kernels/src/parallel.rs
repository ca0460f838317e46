//! When is work worth a second thread, and how does that thread get it?
//!
//! [`split`] hands parts to the ambient pool of rayon: nothing is allocated, and a part that a busy core does not get to is
//! taken by another. By `rayon::join` that costs microseconds, which a decode step, a hundred times a token some microseconds
//! of work, does not have. So within [`together`] the pool's other threads stand by, and a part costs them one look at a
//! counter. A region of work waits for those alone that came to it. Who gets nothing to do for a while, or sees that other
//! work wants a thread ([`on`]), goes back to the pool.

use std::cell::Cell;
use std::hint::spin_loop;
use std::ops::Range;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread::{panicking, yield_now};

/// Nanoseconds on one thread, about, that are worth handing to another one: by `rayon::join`, and to one that stands by.
const WORTH: usize = 8_000;
const WORTH_TOGETHER: usize = 1_000;
/// Looks for work before a thread that stands by lets others have its core, and how often it lets them before it goes: tens of
/// microseconds, and about a millisecond where nobody else wants the core.
const LOOKS: usize = 500;
const YIELDS: usize = 2000;
/// Most homes of a region, and most items of one.
const HOMES: usize = 16;
const ITEMS: usize = (u32::MAX >> 7) as usize; // times HOMES, and more, it fits into 32 bits

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
    } else if team.is_null() || n > ITEMS {
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
                self.0.over.0.store(true, Ordering::Relaxed);
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
    rayon::join(lead, || team.stand_by(threads - 1)).0
}

/// One thread that leads, and those that stand by. What they hand over is the time of small work: so each of them looks at one cache
/// line, its home's, where all is that it needs to begin.
#[derive(Default)]
struct Team {
    /// Each is some threads' own: parts that follow one another in memory then go to one thread, whose core has asked for what comes next.
    /// Who is done with its home helps in others.
    homes: [Home; HOMES],
    /// Items that others than the leader are done with, of this and all earlier regions.
    done: Alone<AtomicUsize>,
    /// There will be no more regions.
    over: Alone<AtomicBool>,
    /// Threads that stand by.
    standing: Alone<AtomicUsize>,
    /// A part panicked on another thread.
    failed: AtomicBool,
    /// The leader did about its share, where regions are long enough to tell.
    even: AtomicBool,
}

/// A range of the items of one call of [`split`]. All but `items` is written by the leader, before it gives `items`; who has taken some
/// may rely on it until it has counted them as done. Before that it may be about to change.
#[derive(Default)]
#[repr(align(128))] // two cache lines: processors read them in pairs
struct Home {
    /// The next item that nobody has, and, 32 bits up, where they end.
    items: AtomicU64,
    work: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// Homes of the region.
    homes: AtomicUsize,
    /// The first part, to be taken while the next item is its first.
    first: AtomicUsize,
    first_until: AtomicUsize,
    /// Items of a part, at least.
    least: AtomicUsize,
    /// Other parts are one of so many of what is left.
    shares: AtomicUsize,
}

/// What [`Home::call`] is.
type Call = unsafe fn(*const (), Range<usize>);

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Alone<T>(T);

fn packed(items: Range<usize>) -> u64 {
    items.start as u64 | (items.end as u64) << 32
}

impl Home {
    /// Takes a part, until there are none; who is at home a larger one first.
    fn take(&self, at_home: bool) -> Option<Range<usize>> {
        let mut items = self.items.load(Ordering::Acquire);
        loop {
            let (next, end) = (items as u32 as usize, (items >> 32) as usize);
            if next >= end {
                return None;
            }
            let until = if at_home && next == self.first.load(Ordering::Relaxed) {
                self.first_until.load(Ordering::Relaxed)
            } else {
                // So that all end at about the same time.
                let share = (end - next) / self.shares.load(Ordering::Relaxed).max(1);
                next + share.max(self.least.load(Ordering::Relaxed))
            };
            // In bounds even where what was read belongs to two regions.
            let part = next..until.clamp(next + 1, end);
            match self.items.compare_exchange_weak(items, packed(part.end..end), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(part),
                Err(now) => items = now,
            }
        }
    }

    /// Does a part that was taken.
    ///
    /// Safety: it was taken here, and is not counted yet.
    unsafe fn run(&self, part: Range<usize>) {
        // SAFETY: since `part` was taken, both are those of its region, which lives until it is counted; `call` was made of a `Call`.
        unsafe {
            let call = std::mem::transmute::<*mut (), Call>(self.call.load(Ordering::Relaxed));
            call(self.work.load(Ordering::Relaxed), part);
        }
    }
}

/// The open region, to its leader. Ends when all that was taken is done, also where a part panics.
struct Open<'a> {
    team: &'a Team,
    n: usize,
    homes: usize,
    /// What `done` was before: nobody adds to it between regions.
    before: usize,
    /// Items that the leader took.
    mine: Cell<usize>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut taken = self.n;
        if panicking() {
            for home in &self.team.homes[..self.homes] {
                let items = home.items.swap(0, Ordering::Relaxed);
                taken -= (items >> 32) as usize - items as u32 as usize;
            }
        }
        let mut looks = 0;
        let done = self.before.wrapping_add(taken - self.mine.get());
        while self.team.done.0.load(Ordering::Acquire) != done {
            looks += 1;
            if looks < LOOKS { spin_loop() } else { yield_now() }
        }
        TEAM.set(self.team);
    }
}

impl Team {
    /// Opens a region, takes part in it, and returns when all of it is done. Called by the leader, outside of regions.
    fn region<W: Fn(Range<usize>) + Sync>(&self, n: usize, least: usize, work: &W) {
        unsafe fn call<W: Fn(Range<usize>)>(work: *const (), part: Range<usize>) {
            // SAFETY: `work` is the one that `region` was called with, and lives until this part is counted.
            unsafe { (*work.cast::<W>())(part) }
        }
        self.run(n, least, (&raw const *work).cast(), call::<W>);
    }

    fn run(&self, n: usize, least: usize, work: *const (), call: Call) {
        let threads = rayon::current_num_threads();
        let homes = n.div_ceil(least).min(threads).min(HOMES);
        let shares = threads.div_ceil(homes) + 1;
        // Threads that are about as fast as one another begin with seven eighths of their homes. Elsewhere the slow ones would end last.
        let most = shares == 2 && self.even.load(Ordering::Relaxed);
        let (before, mut first) = (self.done.0.load(Ordering::Relaxed), 0);
        for (number, home) in self.homes[..homes].iter().enumerate().rev() {
            let (start, end) = (n * number / homes, n * (number + 1) / homes);
            let share = if most { end - start - (end - start) / 8 } else { (end - start) / shares };
            first = (start + share.max(least)).min(end);
            home.work.store(work.cast_mut(), Ordering::Relaxed);
            home.call.store(call as *mut (), Ordering::Relaxed);
            home.homes.store(homes, Ordering::Relaxed);
            home.first.store(start, Ordering::Relaxed);
            home.first_until.store(first, Ordering::Relaxed);
            home.least.store(least, Ordering::Relaxed);
            home.shares.store(shares, Ordering::Relaxed);
            // The leader has the first part of the first one, without asking.
            home.items.store(packed(if number == 0 { first } else { start }..end), Ordering::Release);
        }
        TEAM.set(null());
        let open = Open { team: self, n, homes, before, mine: Cell::new(first) };
        // SAFETY: nobody else takes it, and `open` waits for all others.
        unsafe { self.homes[0].run(0..first) };
        self.take_parts(0, homes, &open.mine);
        let mine = open.mine.get();
        drop(open);
        assert!(!self.failed.load(Ordering::Relaxed), "a part panicked on another thread");
        if n >= 16 * homes {
            // The faster one of two gets up to nine eighths of a home, where both begin with seven.
            self.even.store((15 * n..=17 * n).contains(&(16 * homes * mine)), Ordering::Relaxed);
        }
    }

    /// Parts of the open region, until there are none, its own home's first; `items` counts what it takes.
    fn take_parts(&self, number: usize, homes: usize, items: &Cell<usize>) {
        for home in (number..number + homes).map(|home| &self.homes[home % homes]) {
            while let Some(part) = home.take(false) {
                items.set(items.get() + part.len());
                // SAFETY: the caller counts it as done after this.
                unsafe { home.run(part) };
            }
        }
    }

    /// Takes part in the open region, if there is one and its home has items; did it?
    fn help(&self, number: usize) -> bool {
        /// What it has taken, as done: also where a part panics.
        struct Taken<'a>(&'a Team, Cell<usize>);
        impl Drop for Taken<'_> {
            fn drop(&mut self) {
                if panicking() {
                    self.0.failed.store(true, Ordering::Relaxed);
                }
                self.0.done.0.fetch_add(self.1.get(), Ordering::Release);
            }
        }
        let home = &self.homes[number % HOMES];
        let Some(part) = home.take(true) else { return false };
        let taken = Taken(self, Cell::new(part.len()));
        let homes = home.homes.load(Ordering::Relaxed);
        // SAFETY: `taken` counts it as done after this.
        unsafe { home.run(part) };
        self.take_parts(number, homes, &taken.1);
        true
    }

    /// Takes part in regions until there are no more, or none for a while; on as many as `threads`.
    fn stand_by(&self, threads: usize) {
        if threads > 1 {
            rayon::join(|| self.stand_by(threads / 2), || self.stand_by(threads - threads / 2));
            return;
        }
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        // Numbers without gaps, as long as nobody leaves: short regions have homes for few.
        let number = 1 + self.standing.0.fetch_add(1, Ordering::Relaxed);
        let _standing = Leave(&self.standing.0);
        let mut looks = 0;
        while looks < LOOKS + YIELDS && !self.over.0.load(Ordering::Relaxed) && WAITING.load(Ordering::Relaxed) == 0 {
            if self.help(number) {
                looks = 0;
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
        unsafe fn take(taken: *const (), _: Range<usize>) {
            // SAFETY: it is `taken`, which outlives the test's use of it.
            unsafe { (*taken.cast::<AtomicBool>()).store(true, Ordering::Relaxed) }
        }
        let home = &team.homes[1];
        home.work.store((&raw const taken).cast_mut().cast(), Ordering::Relaxed);
        home.call.store(take as Call as *mut (), Ordering::Relaxed);
        home.homes.store(2, Ordering::Relaxed);
        home.items.store(packed(0..1), Ordering::Release);
        WAITING.fetch_add(1, Ordering::Relaxed);
        team.stand_by(1);
        let meanwhile = taken.load(Ordering::Relaxed);
        WAITING.fetch_sub(1, Ordering::Relaxed);
        assert!(!meanwhile, "it took part");
        // More than once, since other tests wait for threads too.
        (0..1000).take_while(|_| !taken.load(Ordering::Relaxed)).for_each(|_| team.stand_by(1));
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
