//! The whole network on a GPU: what `model.rs` is on the CPU, with the same shapes in the same order.
//!
//! Weights and what goes between them are bf16; the residual stream, the states and all sums are f32. States stay on the GPU
//! between calls.
//!
//! **A state is a function of the ids alone.** Whole segments of [`SEGMENT`] tokens, counted from the start of the context, go
//! many rows at a time ([`Gpu::chunk`], [`Gpu::wide`]); the tokens after the last whole segment, and decoding, go one by one
//! ([`Gpu::step`], [`Gpu::narrow`]). The two round differently. So a [`State`] keeps what was there at the last boundary and the
//! ids after it: when they fill a segment, it is read again from the boundary the wide way, whoever cut the calls how.

mod load;
mod passes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use palimpsest_kernels::cuda::{Buffer, CudaError, Gpu, Graph, Table};

use crate::cancel::Pace;
use crate::error::{Error, Result};
use crate::model::{Config, Sequence, Want};
use crate::state::{Resident, SEGMENT, State};
use load::Block;
use passes::Scratch;

/// Most rows of a pass of whole segments: bounds the scratch memory.
const WIDE_ROWS: usize = 8192;
/// Most sequences of a step.
const STEP_ROWS: usize = 256;
/// Rows whose logits are made at once.
const LOGIT_ROWS: usize = 256;

/// The network's weights on a GPU.
pub struct DeviceModel {
    gpu: Gpu,
    config: Config,
    embedding: Buffer,
    /// `None` where it is the embedding.
    head: Option<Buffer>,
    final_norm: Buffer,
    blocks: Vec<Block>,
    weight_bytes: usize,
    work: Mutex<Work>,
}

/// Buffers of the passes; one forward at a time has them.
struct Work {
    wide: Option<Scratch>,
    step: Option<Scratch>,
    step_table: Option<Table>,
    /// Steps of so many sequences, as recordings.
    graphs: HashMap<(usize, Logits), Graph>,
}

/// What a step makes of the residual stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Logits {
    None,
    All,
    Largest,
}

/// A sequence on its way through a forward.
struct Way {
    /// The ids after the boundary, those of earlier calls first.
    ids: Vec<u32>,
    /// How many of them are of earlier calls.
    before: usize,
    /// How many go in whole segments, and how many have.
    whole: usize,
    done: usize,
    boundary: Arc<Buffer>,
    live: Option<Arc<Buffer>>,
}

impl DeviceModel {
    /// The shape of the network.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it runs on.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes that the matrices take on the GPU.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Frees the buffers of calls that ended.
    pub fn trim_memory(&self) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        *work = Work { wide: None, step: None, step_table: None, graphs: HashMap::new() };
    }

    /// As [`crate::model::Model::forward_at`].
    ///
    /// # Errors
    /// As there, and [`Error::Cuda`]. After an error of the GPU or of `pace` the states of the batch must be thrown away.
    pub fn forward_at(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        pace: &mut Pace<'_>,
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let mut ways = self.ways(batch)?;
        let mut guard = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = &mut *guard;
        let mut last: Vec<Option<Vec<f32>>> = vec![None; batch.len()];
        self.segments(&mut ways, work, want, pace, &mut last, sink)?;
        self.steps(&mut ways, work, want, pace, &mut last, sink)?;
        drop(guard);
        for ((i, s), way) in batch.iter_mut().enumerate().zip(ways) {
            if s.ids.is_empty() && s.state.tokens() == 0 {
                continue;
            }
            let resident = Resident { boundary: way.boundary, live: way.live };
            s.state.settle(s.ids.len(), way.ids[way.whole..].to_vec(), resident);
            if let (Some(logits), false) = (&last[i], s.ids.is_empty()) {
                sink(i, s.ids.len() - 1, logits);
            }
        }
        Ok(())
    }

    /// Checks the batch and takes its states to the GPU, where they are not yet.
    fn ways(&self, batch: &mut [Sequence<'_>]) -> Result<Vec<Way>> {
        let c = &self.config;
        for s in batch.iter() {
            if let Some(id) = s.ids.iter().find(|&&id| id as usize >= c.vocabulary) {
                return Err(Error::Input(format!("token id {id} is outside the reader's vocabulary of {}", c.vocabulary)));
            }
            if s.state.len() != State::elements(c) {
                return Err(Error::Input(format!(
                    "a state of {} elements does not belong to this reader, whose states have {}",
                    s.state.len(),
                    State::elements(c)
                )));
            }
            if s.state.tail().len() as u64 != s.state.tokens() % SEGMENT as u64 {
                return Err(Error::Input(format!(
                    "a state of {} tokens came without the ids since its last segment of {SEGMENT}",
                    s.state.tokens()
                )));
            }
        }
        let mut ways = Vec::new();
        for s in batch.iter_mut() {
            let resident = match s.state.take_resident() {
                Some(resident) => resident,
                None => Resident { boundary: Arc::new(self.gpu.upload(s.state.data())?), live: None },
            };
            let before = s.state.tail().len();
            let ids = [s.state.tail(), s.ids].concat();
            let whole = ids.len() / SEGMENT * SEGMENT;
            let live = if whole > 0 { None } else { resident.live };
            ways.push(Way { ids, before, whole, done: 0, boundary: resident.boundary, live });
        }
        Ok(ways)
    }

    /// Whole segments, many rows at a time.
    fn segments(
        &self,
        ways: &mut [Way],
        work: &mut Work,
        want: Want,
        pace: &mut Pace<'_>,
        last: &mut [Option<Vec<f32>>],
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let most: usize = ways.iter().map(|w| w.whole).sum::<usize>().min(WIDE_ROWS);
        if most == 0 {
            return Ok(());
        }
        if work.wide.as_ref().is_none_or(|s| s.rows < most) {
            work.wide = None;
            work.wide = Some(Scratch::new(&self.gpu, &self.config, most, true)?);
        }
        let Some(scratch) = &work.wide else { return Ok(()) };
        for way in ways.iter_mut().filter(|w| w.whole > 0) {
            own(&mut way.boundary)?;
        }
        loop {
            let active: Vec<usize> = (0..ways.len()).filter(|&i| ways[i].done < ways[i].whole).collect();
            if active.is_empty() {
                return Ok(());
            }
            pace.check()?;
            let share = (most / active.len() / SEGMENT).max(1) * SEGMENT;
            let (mut room, mut lens, mut ids, mut here) = (most, Vec::new(), Vec::new(), Vec::new());
            for i in active {
                let way = &ways[i];
                let len = share.min(way.whole - way.done).min(room);
                if len > 0 {
                    here.push(i);
                    lens.push(len);
                    ids.extend_from_slice(&way.ids[way.done..way.done + len]);
                    room -= len;
                }
            }
            scratch.ids.write(0, &ids)?;
            let mut table = self.gpu.table(here.iter().map(|&i| ways[i].boundary.clone()).collect())?;
            self.wide_pass(scratch, &lens, &table, pace)?;
            let mut row = 0;
            let mut wanted = Vec::new();
            for (&i, &len) in here.iter().zip(&lens) {
                let way = &mut ways[i];
                match want {
                    Want::Nothing => {}
                    Want::Last | Want::Largest => {
                        if way.done + len == way.ids.len() {
                            wanted.push((row + len - 1, i, 0));
                        }
                    }
                    Want::All | Want::Only(_) => {
                        let from = way.before.saturating_sub(way.done).min(len);
                        wanted.extend((from..len).map(|t| (row + t, i, way.done + t - way.before)));
                    }
                }
                way.done += len;
                row += len;
            }
            for group in wanted.chunks(LOGIT_ROWS) {
                let rows: Vec<u32> = group.iter().map(|&(row, _, _)| row as u32).collect();
                scratch.wanted.write(0, &rows)?;
                self.logits(scratch, Some(&scratch.wanted), rows.len())?;
                if want == Want::Largest {
                    self.largest(scratch, rows.len())?;
                }
                self.hand_out(scratch, group.iter().map(|&(_, i, position)| (i, position)), want, last, sink)?;
            }
            // The next pass takes the states' buffers for its own only where nobody else holds them.
            table.release();
            pace.read(row);
        }
    }

    /// What is after the last whole segment, a token of each sequence at a time.
    fn steps(
        &self,
        ways: &mut [Way],
        work: &mut Work,
        want: Want,
        pace: &mut Pace<'_>,
        last: &mut [Option<Vec<f32>>],
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        // Where a sequence goes on: after the segments, or after what was stepped through before.
        let mut at: Vec<usize> = ways.iter().map(|w| if w.live.is_some() { w.before } else { w.whole }).collect();
        for (way, &at) in ways.iter_mut().zip(&at) {
            if at < way.ids.len() {
                match &mut way.live {
                    Some(live) => own(live)?,
                    None => way.live = Some(Arc::new(way.boundary.duplicate()?)),
                }
            }
        }
        loop {
            let active: Vec<usize> = (0..ways.len()).filter(|&i| at[i] < ways[i].ids.len()).collect();
            if active.is_empty() {
                return Ok(());
            }
            pace.check()?;
            for group in active.chunks(STEP_ROWS) {
                let wanted = |i: usize, at: usize| match want {
                    Want::Nothing => false,
                    Want::Last | Want::Largest => at + 1 == ways[i].ids.len(),
                    Want::All | Want::Only(_) => at >= ways[i].before,
                };
                let ids: Vec<u32> = group.iter().map(|&i| ways[i].ids[at[i]]).collect();
                let states = group.iter().filter_map(|&i| ways[i].live.clone()).collect();
                let logits = match (group.iter().any(|&i| wanted(i, at[i])), want) {
                    (false, _) => Logits::None,
                    (true, Want::Largest) => Logits::Largest,
                    (true, _) => Logits::All,
                };
                self.step(work, &ids, states, logits)?;
                if logits != Logits::None {
                    let Some(scratch) = &work.step else { return Ok(()) };
                    let rows: Vec<(usize, usize)> = group
                        .iter()
                        .map(|&i| if wanted(i, at[i]) { (i, at[i].saturating_sub(ways[i].before)) } else { (usize::MAX, 0) })
                        .collect();
                    self.hand_out(scratch, rows.into_iter(), want, last, sink)?;
                }
                if let Some(table) = &mut work.step_table {
                    table.release();
                }
                group.iter().for_each(|&i| at[i] += 1);
                pace.read(group.iter().filter(|&&i| at[i] > ways[i].before).count());
            }
        }
    }

    /// One token of each of the sequences with these states.
    fn step(&self, work: &mut Work, ids: &[u32], states: Vec<Arc<Buffer>>, logits: Logits) -> Result<()> {
        let m = ids.len();
        if work.step.is_none() {
            work.step = Some(Scratch::new(&self.gpu, &self.config, STEP_ROWS, false)?);
        }
        if work.step_table.is_none() {
            work.step_table = Some(self.gpu.table(vec![states[0].clone(); STEP_ROWS])?);
        }
        let (Some(scratch), Some(table)) = (&work.step, &mut work.step_table) else { return Ok(()) };
        scratch.ids.write(0, ids)?;
        table.set(states)?;
        let key = (m, logits);
        if let Some(graph) = work.graphs.get(&key) {
            return Ok(self.gpu.run(graph)?);
        }
        self.step_pass(scratch, table, m, logits)?;
        if self.gpu.can_record() {
            // Without a recording a step costs its launches, nothing else.
            if let Ok(graph) = self.gpu.record(|| self.step_pass(scratch, table, m, logits)) {
                work.graphs.insert(key, graph);
            }
        }
        Ok(())
    }

    /// Seconds of one step of `batch` sequences with its logits, by the GPU's clock: the mean of `rounds` in a row.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn step_s(&self, batch: usize, rounds: usize) -> Result<f64> {
        let batch = batch.clamp(1, STEP_ROWS);
        let mut guard = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = &mut *guard;
        let states = (0..batch)
            .map(|_| {
                let state = self.gpu.allocate(State::bytes(&self.config))?;
                state.zero()?;
                Ok(Arc::new(state))
            })
            .collect::<Result<Vec<_>>>()?;
        let ids = vec![0; batch];
        self.step(work, &ids, states.clone(), Logits::All)?;
        let ms = self.gpu.time_ms(|| {
            for _ in 0..rounds {
                match (work.graphs.get(&(batch, Logits::All)), &work.step, &work.step_table) {
                    (Some(graph), ..) => self.gpu.run(graph)?,
                    (None, Some(scratch), Some(table)) => self.step_pass(scratch, table, batch, Logits::All)?,
                    _ => {}
                }
            }
            Ok(())
        })?;
        drop(states);
        Ok(f64::from(ms) / 1e3 / rounds.max(1) as f64)
    }

    /// The logits in `scratch`, row after row, or the ids of the largest, to whom they belong; `usize::MAX` is nobody.
    fn hand_out(
        &self,
        scratch: &Scratch,
        rows: impl ExactSizeIterator<Item = (usize, usize)>,
        want: Want,
        last: &mut [Option<Vec<f32>>],
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        if want == Want::Largest {
            let mut ids = vec![0u32; rows.len()];
            scratch.largest.read(0, &mut ids)?;
            for ((i, _), id) in rows.zip(ids).filter(|((i, _), _)| *i != usize::MAX) {
                last[i] = Some(vec![id as f32]);
            }
            return Ok(());
        }
        let n = self.config.vocabulary;
        let mut logits = vec![0.0f32; rows.len() * n];
        scratch.logits.read(0, &mut logits)?;
        for ((i, position), logits) in rows.zip(logits.chunks_exact(n)).filter(|((i, _), _)| *i != usize::MAX) {
            match want {
                Want::Nothing | Want::Largest => {}
                Want::Last => last[i] = Some(logits.to_vec()),
                Want::All => sink(i, position, logits),
                Want::Only(ids) => {
                    let some: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
                    sink(i, position, &some);
                }
            }
        }
        Ok(())
    }
}

/// Makes `buffer` one that nobody else holds, with the same bytes.
fn own(buffer: &mut Arc<Buffer>) -> Result<(), CudaError> {
    if Arc::strong_count(buffer) > 1 {
        *buffer = Arc::new(buffer.duplicate()?);
    }
    Ok(())
}
