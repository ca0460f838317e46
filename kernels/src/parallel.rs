//! When is work worth a second thread, and how does that thread get it?
//!
//! [`split`] hands parts to the ambient pool of rayon: nothing is allocated, and a part that a busy core does not get to is
//! taken by another. By `rayon::join` that costs microseconds, which a decode step, a hundred times a token some microseconds
//! of work, does not have. So within [`together`] the pool's other threads stand by, and a part costs them one look at a
//! counter. A region of work waits for those alone that came to it. Who gets nothing to do for a while, or sees that other
//! work wants a thread ([`on`]), goes back to the pool.

use std::cell::Cell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
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
const ITEMS: usize = (u32::MAX >> 8) as usize; // times 16 homes, and 16, it fits into 32 bits

/// Calls of [`on`] that have no thread yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The team that this thread leads, while it is free for a region.
    static TEAM: Cell<*const Team> = const { Cell::new(null()) };
}

/// Work to be shared out.
pub(crate) struct Stage<'a> {
    /// Items.
    n: usize,
    /// Nanoseconds that one takes on one thread, about.
    cost: usize,
    work: *const (),
    call: Call,
    _work: PhantomData<&'a ()>,
}

/// What [`Stage::call`] is.
type Call = unsafe fn(*const (), &mut Parts<'_>);

impl<'a> Stage<'a> {
    /// `n` items, each of about `cost` nanoseconds on one thread. `work` has to go through all the parts that it is given; within
    /// [`together`] it is called once on each thread that takes part.
    pub(crate) fn of<W: Fn(&mut Parts<'_>) + Sync>(n: usize, cost: usize, work: &'a W) -> Self {
        unsafe fn call<W: Fn(&mut Parts<'_>)>(work: *const (), parts: &mut Parts<'_>) {
            // SAFETY: the one that `of` was called with; it lives as long as the stage, which outlives what is done of it.
            unsafe { (*work.cast::<W>())(parts) }
        }
        Self { n, cost, work: (&raw const *work).cast(), call: call::<W>, _work: PhantomData }
    }

    /// Items of a part, at least, where `worth` nanoseconds are worth a part.
    fn least(&self, worth: usize) -> usize {
        (worth / self.cost.max(1)).max(1)
    }

    fn run(&self, part: Range<usize>) {
        let mut parts = Parts { first: Some(part), more: None };
        // SAFETY: `call` was made for `work`.
        unsafe { (self.call)(self.work, &mut parts) }
    }

    /// Without a team.
    fn join(&self, threads: usize) {
        /// What is shared by the threads of `rayon::join`.
        struct Shared<'a>(&'a Stage<'a>);
        // SAFETY: `work` is `Sync`.
        unsafe impl Sync for Shared<'_> {}
        fn halves(stage: &Shared<'_>, range: Range<usize>, grain: usize) {
            if range.len() <= grain {
                return stage.0.run(range);
            }
            let middle = range.start + range.len() / 2;
            rayon::join(|| halves(stage, range.start..middle, grain), || halves(stage, middle..range.end, grain));
        }
        let least = self.least(WORTH);
        if threads == 1 || self.n <= least {
            return self.run(0..self.n);
        }
        halves(&Shared(self), 0..self.n, least.max(self.n.div_ceil(4 * threads)));
    }
}

/// Calls `work` with ranges that cover `0..n` exactly; an item costs `cost` nanoseconds on one thread, about.
pub(crate) fn split(n: usize, cost: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    stages(&[Stage::of(n, cost, &|parts: &mut Parts<'_>| parts.for_each(work))]);
}

/// One stage after the other: what a thread does of one sees all that was done of those before. Within [`together`], who is done last
/// with one opens the next, so that nobody has to be waited for.
pub(crate) fn stages(stages: &[Stage<'_>]) {
    let (threads, team) = (rayon::current_num_threads(), TEAM.get());
    let small = stages.len() == 1 && stages[0].n <= stages[0].least(WORTH_TOGETHER);
    // While a panic unwinds, nothing is begun that another could end.
    if small || team.is_null() || panicking() || stages.iter().any(|stage| stage.n > ITEMS) {
        for stage in stages.iter().filter(|stage| stage.n > 0) {
            if small { stage.run(0..stage.n) } else { stage.join(threads) }
        }
    } else {
        // SAFETY: `together`, which set it on this thread, has not returned: it takes it away before.
        unsafe { &*team }.run(stages);
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
    let team = Team { threads, ..Team::default() };
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
    /// Who is done with its home helps in others. The leader's is the first.
    homes: [Home; HOMES],
    done: Done,
    /// There will be no more regions.
    over: Alone<AtomicBool>,
    /// Threads that stand by.
    standing: Alone<AtomicUsize>,
    /// All threads.
    threads: usize,
    /// A part panicked.
    failed: AtomicBool,
    /// The leader did about its share, where stages are long enough to tell.
    even: AtomicBool,
}

/// A range of the items of a stage. All but `items` is written by who opens the stage, before he gives `items`; who has taken some
/// may rely on it until they are counted as done. Before that it may be about to change. It is one cache line.
#[derive(Default)]
#[repr(align(128))] // processors read them in pairs
struct Home {
    /// The next item that nobody has, and, 32 bits up, where they end.
    items: AtomicU64,
    work: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// The stages that follow, and how many do.
    next: AtomicPtr<()>,
    left: AtomicU16,
    /// Homes of the stage.
    homes: AtomicU16,
    /// Parts but the first are one of so many of what is left.
    shares: AtomicU32,
    /// The first part, to be taken while the next item is its first: as `items`.
    first: AtomicU64,
    /// Items of a part, at least.
    least: AtomicU32,
    /// Items of the stage.
    n: AtomicU32,
    /// What [`Done::items`] is when the stage is done and all are counted.
    until: AtomicUsize,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Alone<T>(T);

#[derive(Default)]
#[repr(align(128))]
struct Done {
    /// Items, of all stages so far; but what the leader does of a region's last stage is not counted, unless it panics.
    items: AtomicUsize,
    /// After a panic: the stage is done, and there will be no more.
    early: AtomicBool,
}

fn packed(items: Range<usize>) -> u64 {
    items.start as u64 | (items.end as u64) << 32
}

fn unpacked(items: u64) -> Range<usize> {
    items as u32 as usize..(items >> 32) as usize
}

impl Home {
    /// Takes a part, until there are none; who is at home a larger one first.
    fn take(&self, at_home: bool) -> Option<Range<usize>> {
        let mut items = self.items.load(Ordering::Acquire);
        loop {
            let Range { start: next, end } = unpacked(items);
            if next >= end {
                return None;
            }
            let first = unpacked(self.first.load(Ordering::Relaxed));
            let until = if at_home && next == first.start {
                first.end
            } else {
                // So that all end at about the same time.
                let share = (end - next) / (self.shares.load(Ordering::Relaxed) as usize).max(1);
                next + share.max(self.least.load(Ordering::Relaxed) as usize)
            };
            // In bounds even where what was read belongs to two stages.
            let part = next..until.clamp(next + 1, end);
            match self.items.compare_exchange_weak(items, packed(part.end..end), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(part),
                Err(now) => items = now,
            }
        }
    }
}

/// The parts of a stage that come to one thread.
pub(crate) struct Parts<'a> {
    first: Option<Range<usize>>,
    /// Where there may be more.
    more: Option<Taking<'a>>,
}

/// A thread at work on a stage.
struct Taking<'a> {
    team: &'a Team,
    /// The home that it takes parts of, how many it will look at, and how many there are.
    at: usize,
    left: usize,
    homes: usize,
    /// Items that it took and that are not counted.
    items: usize,
    /// As [`Home::until`].
    until: usize,
}

impl Iterator for Parts<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.first.is_some() {
            return self.first.take();
        }
        let taking = self.more.as_mut()?;
        while taking.left > 0 {
            if let Some(part) = taking.team.homes[taking.at].take(false) {
                taking.items += part.len();
                return Some(part);
            }
            taking.at = if taking.at + 1 < taking.homes { taking.at + 1 } else { 0 };
            taking.left -= 1;
        }
        None
    }
}

impl Taking<'_> {
    /// Counts what it took; is the stage done by that?
    fn count(&mut self) -> bool {
        let items = std::mem::take(&mut self.items);
        items > 0 && self.team.done.items.fetch_add(items, Ordering::AcqRel).wrapping_add(items) == self.until
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.team.failed.store(true, Ordering::Relaxed);
            if self.count() {
                self.team.done.early.store(true, Ordering::Release);
            }
        }
    }
}

impl Team {
    /// Goes through all stages, takes part in them, and returns when they are done. Called by the leader, outside of regions.
    fn run(&self, stages: &[Stage<'_>]) {
        /// Ends when nobody is at work, also where the leader's part panics.
        struct Open<'a>(&'a Team, usize);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                if panicking() {
                    self.0.give_up(self.1);
                }
                TEAM.set(self.0);
            }
        }
        let failed = || self.failed.load(Ordering::Relaxed);
        assert!(!failed(), "a part panicked before");
        // The last one has items: once the others are done, nobody looks for more.
        let stages = &stages[..stages.iter().rposition(|stage| stage.n > 0).map_or(0, |last| last + 1)];
        let all: usize = stages.iter().map(|stage| stage.n).sum();
        let end = self.done.items.load(Ordering::Relaxed).wrapping_add(all);
        TEAM.set(null());
        let open = Open(self, end);
        let (mut looks, mut of_last) = (0, 0);
        let mut part = self.open(stages.as_ptr(), stages.len(), 0);
        loop {
            if let Some(part) = part {
                of_last = self.take_part(0, part);
                looks = 0;
            }
            if self.over(end.wrapping_sub(of_last)) {
                break;
            }
            part = self.homes[0].take(true);
            if part.is_none() {
                // Who took what was here may not have come to the other homes; who has done some of the last stage has been to all.
                assert!(of_last > 0 || !failed(), "a part panicked on another thread");
                looks += 1;
                if looks < LOOKS { spin_loop() } else { yield_now() }
            }
        }
        drop(open);
        assert!(!failed(), "a part panicked on another thread");
    }

    /// Is the region over, which is so when `end` items are done?
    fn over(&self, end: usize) -> bool {
        self.done.items.load(Ordering::Acquire) == end || self.done.early.load(Ordering::Acquire)
    }

    /// After a panic of the leader, whose items are counted: throws away what nobody has taken, and waits for the rest.
    fn give_up(&self, end: usize) {
        while !self.over(end) {
            for home in &self.homes {
                let items = unpacked(home.items.swap(0, Ordering::Acquire)).len();
                // Without these the stage is not done, and `until` is its own.
                let until = home.until.load(Ordering::Relaxed);
                drop(Taking { team: self, at: 0, left: 0, homes: 0, items, until });
            }
            yield_now();
        }
    }

    /// Opens the first of the `left` stages from `next` on that has items, unless there was a panic. Returns the first part of home `number`,
    /// which is the caller's without asking. Called by who has done the last item of the stage before.
    fn open(&self, mut next: *const Stage<'_>, mut left: usize, number: usize) -> Option<Range<usize>> {
        let stage = loop {
            left = left.checked_sub(1)?;
            // SAFETY: it is one of `run`'s, which waits for the last of them, and that has items. An address, since who has opened that
            // one may be here when `run` has returned.
            let stage = unsafe { &*next };
            next = next.wrapping_add(1);
            if stage.n > 0 {
                break stage;
            }
        };
        if self.failed.load(Ordering::Relaxed) {
            self.done.early.store(true, Ordering::Release);
            return None;
        }
        let (n, least) = (stage.n, stage.least(WORTH_TOGETHER).min(stage.n));
        let homes = n.div_ceil(least).min(self.threads).min(HOMES);
        let shares = self.threads.div_ceil(homes) + 1;
        // Threads that are about as fast as one another begin with seven eighths of their homes. Elsewhere the slow ones would end last.
        let most = shares == 2 && self.even.load(Ordering::Relaxed);
        // Nobody adds to it between two stages.
        let until = self.done.items.load(Ordering::Relaxed).wrapping_add(n);
        let mut own = None;
        for (at, home) in self.homes[..homes].iter().enumerate().rev() {
            let (start, end) = (n * at / homes, n * (at + 1) / homes);
            let share = if most { end - start - (end - start) / 8 } else { (end - start) / shares };
            let first = start..(start + share.max(least)).min(end);
            home.work.store(stage.work.cast_mut(), Ordering::Relaxed);
            home.call.store(stage.call as *mut (), Ordering::Relaxed);
            home.next.store(next.cast_mut().cast(), Ordering::Relaxed);
            home.left.store(left as u16, Ordering::Relaxed);
            home.homes.store(homes as u16, Ordering::Relaxed);
            home.shares.store(shares as u32, Ordering::Relaxed);
            home.first.store(packed(first.clone()), Ordering::Relaxed);
            home.least.store(least as u32, Ordering::Relaxed);
            home.n.store(n as u32, Ordering::Relaxed);
            home.until.store(until, Ordering::Relaxed);
            let items = if at == number { first.end..end } else { start..end };
            home.items.store(packed(items), Ordering::Release);
            if at == number {
                own = Some(first);
            }
        }
        own
    }

    /// Does a part that was taken at home `number`, and all that is found after it, in this stage and in those that open by that. Returns
    /// what the leader did of the last stage.
    fn take_part(&self, number: usize, part: Range<usize>) -> usize {
        let mut part = Some(part);
        while let Some(first) = part {
            let home = &self.homes[number];
            let (homes, n) = (home.homes.load(Ordering::Relaxed).into(), home.n.load(Ordering::Relaxed) as usize);
            let (next, left) = (home.next.load(Ordering::Relaxed).cast_const(), home.left.load(Ordering::Relaxed).into());
            let until = home.until.load(Ordering::Relaxed);
            let taking = Taking { team: self, at: number, left: homes, homes, items: first.len(), until };
            let mut parts = Parts { first: Some(first), more: Some(taking) };
            // SAFETY: since the part was taken, both are those of its stage, which lives until it is counted; `call` was made for `work`.
            unsafe {
                let call = std::mem::transmute::<*mut (), Call>(home.call.load(Ordering::Relaxed));
                call(home.work.load(Ordering::Relaxed), &mut parts);
            }
            let Some(mut taking) = parts.more.take() else { break };
            if number == 0 {
                if n >= 16 * homes {
                    // The faster one of two gets up to nine eighths of a home, where both begin with seven.
                    self.even.store((15 * n..=17 * n).contains(&(16 * homes * taking.items)), Ordering::Relaxed);
                }
                if left == 0 {
                    return taking.items;
                }
            }
            part = if taking.count() { self.open(next.cast(), left, number) } else { None };
        }
        0
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
        // Numbers without gaps, as long as nobody leaves: short stages have homes for few.
        let number = 1 + self.standing.0.fetch_add(1, Ordering::Relaxed) % (HOMES - 1);
        let _standing = Leave(&self.standing.0);
        let mut looks = 0;
        while looks < LOOKS + YIELDS && !self.over.0.load(Ordering::Relaxed) && WAITING.load(Ordering::Relaxed) == 0 {
            if let Some(part) = self.homes[number].take(true) {
                self.take_part(number, part);
                looks = 0;
            } else {
                looks += 1;
                if looks < LOOKS { spin_loop() } else { yield_now() }
            }
        }
    }
}

#[cfg(test)]
mod tests;
