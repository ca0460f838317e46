//! Contexts as a host holds them: one long text, read once and kept, asked, forked, taken back, carried away.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use async_channel::Sender;
use palimpsest_engine::Context;
use palimpsest_engine::cancel::Cancel;

use crate::call::off_thread;
use crate::engine::{EngineHandle, Open, lock};
use crate::error::PalimpsestError;
use crate::job::Job;
use crate::records::{ContextAnswer, ContextStatus, ReadProgress, Turn};

type Result<T> = std::result::Result<T, PalimpsestError>;

/// A context that is open, however many handles there are to it. `None` once it was dropped from the store.
pub(crate) struct Shared(Mutex<Option<Context>>);

/// A context. Every method may be called from any thread at any time; calls on one context come one after another.
#[derive(uniffi::Object)]
pub struct ContextHandle {
    name: String,
    open: Weak<Open>,
    shared: Mutex<Option<Arc<Shared>>>,
}

fn closed(name: &str) -> PalimpsestError {
    PalimpsestError::Closed(format!("the context {name} was closed or dropped: open it again"))
}

fn handle(open: &Arc<Open>, name: &str, shared: Arc<Shared>) -> Arc<ContextHandle> {
    Arc::new(ContextHandle { name: name.into(), open: Arc::downgrade(open), shared: Mutex::new(Some(shared)) })
}

/// The open ones, by name.
pub(crate) type Contexts = HashMap<String, Weak<Shared>>;

fn entered(contexts: &mut Contexts, name: &str, context: Context) -> Arc<Shared> {
    let shared = Arc::new(Shared(Mutex::new(Some(context))));
    contexts.insert(name.into(), Arc::downgrade(&shared));
    shared
}

/// Puts a context that was just made among the open ones.
fn enter(open: &Arc<Open>, name: &str, context: Context) -> Arc<ContextHandle> {
    let shared = entered(&mut lock(&open.contexts), name, context);
    handle(open, name, shared)
}

/// Reads the file at `path` into the context `name`: a new one, or the one that is there, open or not, brought up to date.
fn read_file(
    open: &Arc<Open>,
    name: &str,
    path: &Path,
    title: &str,
    cancel: &Cancel,
    events: &Sender<ReadProgress>,
) -> Result<Arc<ContextHandle>> {
    let file = || File::open(path).map_err(|e| PalimpsestError::Input(format!("{}: {e}", path.display())));
    let source = file()?;
    let held = lock(&open.contexts).get(name).and_then(Weak::upgrade);
    if let Some(shared) = held {
        let handle = handle(open, name, shared.clone());
        handle.locked(&shared, |context| {
            if !context.holds(title, &mut file()?)? {
                context.renew(title, source)?;
            }
            Ok(context.advance(cancel, &mut telling(events))?)
        })?;
        return Ok(handle);
    }
    let context = if open.engine.contexts()?.iter().any(|there| there == name) {
        let mut context = open.engine.context_of(name, title, path)?;
        context.advance(cancel, &mut telling(events))?;
        context
    } else {
        open.engine.read_context(name, title, source, cancel, &mut telling(events))?
    };
    Ok(enter(open, name, context))
}

fn telling(events: &Sender<ReadProgress>) -> impl FnMut(u64, u64) + Send {
    |tokens_done, tokens_total| drop(events.try_send(ReadProgress { tokens_done, tokens_total }))
}

#[uniffi::export]
impl EngineHandle {
    /// Reads `text` into a new context called `name`.
    pub fn read_text(&self, name: String, title: String, text: String) -> Result<Arc<ReadJob>> {
        let open = self.open()?;
        let job = Job::start(open.cancel(), move |events, cancel| {
            let context = open.engine.read_context(&name, &title, text.as_bytes(), cancel, &mut telling(events))?;
            Ok(enter(&open, &name, context))
        });
        Ok(Arc::new(ReadJob { job }))
    }

    /// Reads a file of plain text in UTF-8, of any length, into the context `name`. Its title is the stem of its name, without
    /// another. A context that is there is taken up where it was; where the file holds another text by now, reading begins at
    /// the first section that changed, once every question to the old one was taken back.
    pub fn read_file(&self, name: String, path: String, title: Option<String>) -> Result<Arc<ReadJob>> {
        let open = self.open()?;
        let job = Job::start(open.cancel(), move |events, cancel| {
            let path = Path::new(&path);
            let stem = || path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            read_file(&open, &name, path, &title.unwrap_or_else(stem), cancel, events)
        });
        Ok(Arc::new(ReadJob { job }))
    }

    /// The context called `name`.
    pub async fn open_context(&self, name: String) -> Result<Arc<ContextHandle>> {
        let open = self.open()?;
        off_thread(move || {
            let mut contexts = lock(&open.contexts);
            let shared = match contexts.get(&name).and_then(Weak::upgrade) {
                Some(shared) => shared,
                None => entered(&mut contexts, &name, open.engine.context(&name)?),
            };
            Ok(handle(&open, &name, shared))
        })
        .await
    }

    /// Makes `name` the context that `export` gave. On another machine, or with another reader of the same tokenizer, its
    /// state is read again from the text.
    pub async fn import_context(&self, name: String, bytes: Vec<u8>) -> Result<Arc<ContextHandle>> {
        let open = self.open()?;
        off_thread(move || {
            let context = open.engine.import_context(&name, &mut bytes.as_slice())?;
            Ok(enter(&open, &name, context))
        })
        .await
    }

    /// The names of all contexts, in order.
    pub async fn contexts(&self) -> Result<Vec<String>> {
        let open = self.open()?;
        off_thread(move || Ok(open.engine.contexts()?)).await
    }

    /// Removes the context `name` and all it kept. Handles to it are closed.
    pub async fn drop_context(&self, name: String) -> Result<()> {
        let open = self.open()?;
        off_thread(move || {
            let shared = lock(&open.contexts).remove(&name).and_then(|shared| shared.upgrade());
            if let Some(shared) = shared {
                lock(&shared.0).take();
            }
            Ok(open.engine.drop_context(&name)?)
        })
        .await
    }
}

impl ContextHandle {
    fn shared(&self) -> Result<Arc<Shared>> {
        lock(&self.shared).clone().ok_or_else(|| closed(&self.name))
    }

    /// Runs `work` on the context alone, while its engine is open.
    fn locked<T>(&self, shared: &Shared, work: impl FnOnce(&mut Context) -> Result<T>) -> Result<T> {
        let mut context = lock(&shared.0);
        let _open = self.open.upgrade().ok_or_else(PalimpsestError::engine_closed)?;
        work(context.as_mut().ok_or_else(|| closed(&self.name))?)
    }

    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Context) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (handle, shared) = (self.clone(), self.shared()?);
        off_thread(move || handle.locked(&shared, work)).await
    }
}

#[uniffi::export]
impl ContextHandle {
    /// What it is called.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Goes on reading where a cancelled job stopped.
    pub fn read_on(self: Arc<Self>) -> Result<Arc<ReadJob>> {
        let (open, shared) = (self.open.upgrade().ok_or_else(PalimpsestError::engine_closed)?, self.shared()?);
        let job = Job::start(open.cancel(), move |events, cancel| {
            self.locked(&shared, |context| Ok(context.advance(cancel, &mut telling(events))?))?;
            Ok(self)
        });
        Ok(Arc::new(ReadJob { job }))
    }

    /// Asks the text; question and answer become part of what the next question is asked after.
    pub fn ask(self: Arc<Self>, question: String) -> Result<Arc<ContextAskJob>> {
        let (open, shared) = (self.open.upgrade().ok_or_else(PalimpsestError::engine_closed)?, self.shared()?);
        let job = Job::start(open.cancel(), move |_, cancel| {
            self.locked(&shared, |context| Ok(context.ask_with(&question, cancel)?.into()))
        });
        Ok(Arc::new(ContextAskJob { job }))
    }

    /// Takes back the last `turns` questions.
    pub async fn undo(self: Arc<Self>, turns: u32) -> Result<ContextStatus> {
        self.with(move |context| {
            context.undo(turns as usize)?;
            Ok(context.status().into())
        })
        .await
    }

    /// Copies it under another name: both go on from here on their own.
    pub async fn fork(self: Arc<Self>, name: String) -> Result<Arc<ContextHandle>> {
        let open = self.open.upgrade().ok_or_else(PalimpsestError::engine_closed)?;
        self.with(move |context| {
            let copy = context.fork(&open.engine.context_folder(&name)?)?;
            Ok(enter(&open, &name, copy))
        })
        .await
    }

    /// The whole context: text, turns and state, with a checksum.
    pub async fn export(self: Arc<Self>) -> Result<Vec<u8>> {
        self.with(|context| Ok(context.export()?)).await
    }

    /// Its sizes.
    pub async fn status(self: Arc<Self>) -> Result<ContextStatus> {
        self.with(|context| Ok(context.status().into())).await
    }

    /// The questions asked so far and not taken back.
    pub async fn turns(self: Arc<Self>) -> Result<Vec<Turn>> {
        self.with(|context| Ok(context.turns().iter().map(Into::into).collect())).await
    }

    /// Lets go of the context, which stays in the store. Every later call on this handle fails as closed.
    pub fn shut(&self) {
        lock(&self.shared).take();
    }
}

/// A question to a context under way.
#[derive(uniffi::Object)]
pub struct ContextAskJob {
    job: Job<(), ContextAnswer>,
}

#[uniffi::export]
impl ContextAskJob {
    /// The answer, once there is one.
    pub async fn result(&self) -> Result<ContextAnswer> {
        self.job.result().await
    }

    /// Ends it: the context is as it was before the question.
    pub fn cancel(&self) {
        self.job.cancel();
    }
}

/// The reading of a context under way.
#[derive(uniffi::Object)]
pub struct ReadJob {
    job: Job<ReadProgress, Arc<ContextHandle>>,
}

#[uniffi::export]
impl ReadJob {
    /// How far it is, each time there is something new; none at the end.
    pub async fn next(&self) -> Result<Option<ReadProgress>> {
        self.job.next().await
    }

    /// The context, once it is wholly read.
    pub async fn result(&self) -> Result<Arc<ContextHandle>> {
        self.job.result().await
    }

    /// Ends it. What was read until then is kept, and `read_on` goes on from there.
    pub fn cancel(&self) {
        self.job.cancel();
    }
}
