//! Tells people: one task a Notifier, which holds its [`desk`] and carries out what that says. Nothing waits for a task: what
//! does not fit into its queue is counted and said.

pub mod deliver;
pub mod desk;
pub mod health;
pub mod template;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::base::{Instant, Name, Redactor, limits};
use crate::manifest::spec::NotifierFilter;
use crate::os::clock;
use crate::plan::notifier::NotifierPlan;

use super::book::{Book, ErrorRecord};
use super::classify::without_numbers;
use deliver::Courier;
use desk::{Desk, Failed, Filter, Letter, Next};
use health::Health;
use told::Told;

/// What a notifier says of itself: whether it is a warning, a reason and a message.
pub type Tell = Arc<dyn Fn(&Name, bool, &'static str, String) + Send + Sync>;

/// Messages of one notifier since the daemon started.
#[derive(Debug, Default)]
pub struct Counts {
    pub sent: AtomicU64,
    pub failed: AtomicU64,
    pub dead: AtomicU64,
    lost: AtomicU64,
}

/// All tasks.
pub struct Notifiers {
    running: BTreeMap<Name, Running>,
    courier: Courier,
    tell: Tell,
    /// Not for the first time.
    revised: bool,
}

struct Running {
    /// How it is now; `None`: the daemon ends.
    plans: watch::Sender<Option<Arc<NotifierPlan>>>,
    offers: mpsc::Sender<ErrorRecord>,
    counts: Arc<Counts>,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl Notifiers {
    pub fn new(courier: Courier, tell: Tell) -> Self {
        Self { running: BTreeMap::new(), courier, tell, revised: false }
    }

    /// Those that changed go on with what waits; what one that is gone had not delivered is a dead letter. The first ones of a
    /// daemon go on where those of an earlier one ended, by the book of failures.
    pub fn revise(&mut self, plans: &[NotifierPlan], book: &Book) {
        let first = !std::mem::replace(&mut self.revised, true);
        self.running.retain(|name, _| plans.iter().any(|plan| plan.name == *name));
        for plan in plans {
            match self.running.get(&plan.name) {
                Some(running) if running.plans.borrow().as_deref() == Some(plan) => {}
                Some(running) => drop(running.plans.send(Some(Arc::new(plan.clone())))),
                None => {
                    let kept = if first { self.courier.kept(&plan.name) } else { None };
                    self.running.insert(plan.name.clone(), self.begin(plan.clone(), kept.as_deref(), book));
                }
            }
        }
        let left = self.courier.others(|name| plans.iter().any(|plan| plan.name == *name));
        for name in left {
            match self.courier.kept(&name).filter(|_| first) {
                // It left the manifests while no daemon looked.
                Some(kept) => self.give_up(name, &kept, book),
                None => self.courier.forget(&name),
            }
        }
    }

    /// What a notifier that is in no manifest any more still owed is a dead letter.
    fn give_up(&self, name: Name, kept: &str, book: &Book) {
        let (told, courier) = (Told::read(kept), self.courier.clone());
        let on = told.as_ref().and_then(|told| serde_json::from_str::<NotifierFilter>(told.on()).ok());
        let Some((told, on)) = told.zip(on) else { return courier.forget(&name) };
        let mut desk = Desk::new(filter_of(&on), limits::NOTIFIER_RATE, 0);
        for (record, times) in owed(&told, &filter_of(&on), book).into_iter().rev() {
            desk.owe(record.clone(), times);
        }
        let tell = self.tell.clone();
        tokio::spawn(async move {
            for letter in desk.close(clock::mono()) {
                bury(&courier, &tell, &name, &letter, GONE).await;
            }
            courier.forget(&name);
        });
    }

    fn begin(&self, plan: NotifierPlan, kept: Option<&str>, book: &Book) -> Running {
        let (offers, queue) = mpsc::channel(limits::NOTICES_OFFERED);
        let counts = Arc::new(Counts::default());
        let (health, seen) = watch::channel(Health::default());
        let mut desk =
            Desk::new(filter_of(&plan.spec.on), rate_of(&plan), u64::from_ne_bytes(clock::random()));
        let (on, now) = (words_of_filter(&plan), clock::wall());
        let mut told = kept.and_then(Told::read).unwrap_or_else(|| Told::new(on.clone(), now));
        told.keep(book.iter());
        // What waits over an edit of what it is to tell is told all the same, whether there was a daemon meanwhile or not.
        let then =
            serde_json::from_str(told.on()).map_or_else(|_| filter_of(&plan.spec.on), |on| filter_of(&on));
        let owed = owed(&told, &then, book);
        if !owed.is_empty() {
            desk.has_tried(told.tried());
        }
        owed.iter().rev().for_each(|(record, times)| desk.owe((*record).clone(), *times));
        if told.on() != on {
            let tried = told.tried();
            told = Told::of_waiting(on, now, owed.into_iter());
            told.try_again(tried);
        }
        let plan = Arc::new(plan);
        let (plans, edits) = watch::channel(Some(plan.clone()));
        let work = Work {
            redactor: redactor_of(&plan),
            plan,
            courier: self.courier.clone(),
            counts: counts.clone(),
            tell: self.tell.clone(),
            told,
            health,
            failing: false,
            said: None,
        };
        Running { plans, offers, counts, health: seen, task: tokio::spawn(work.run(desk, queue, edits)) }
    }

    /// A failure was recorded. Never waits.
    pub fn offer(&self, record: &ErrorRecord) {
        for running in self.running.values() {
            if running.offers.try_send(record.clone()).is_err() {
                running.counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub fn counts(&self) -> impl Iterator<Item = (&Name, &Counts)> {
        self.running.iter().map(|(name, running)| (name, &*running.counts))
    }

    /// How one gets on, and what it has delivered.
    pub fn health(&self, name: &Name) -> Option<(Health, &Counts)> {
        let running = self.running.get(name)?;
        Some((running.health.borrow().clone(), &running.counts))
    }

    /// The daemon ends: what is not delivered is left to the next one.
    pub async fn end(&mut self) {
        for (_, Running { plans, task, .. }) in std::mem::take(&mut self.running) {
            let _ = plans.send(None);
            let _ = tokio::time::timeout(limits::NOTIFIER_TIMEOUT, task).await;
        }
    }
}

/// Why what a notifier that is gone had not delivered is a dead letter.
const GONE: &str = "the notifier is in no manifest any more";

/// What it has not told, each with how often it happened.
fn owed<'a>(told: &Told, filter: &Filter, book: &'a Book) -> Vec<(&'a ErrorRecord, u64)> {
    let passing = book.iter().filter(|record| filter.passes(record));
    passing.map(|record| (record, told.owed(record))).filter(|(_, times)| *times > 0).collect()
}

/// Nobody got it.
async fn bury(courier: &Courier, tell: &Tell, name: &Name, letter: &Letter, why: &str) {
    let mut message = template::message(name.as_str(), letter);
    message["undelivered"] = why.into();
    let of = letter.subject();
    let message = match courier.bury(message).await {
        Ok(()) => format!("gave up telling of {of}: {why}; see logs/notifier-dead-letters.jsonl"),
        Err(lost) => format!("gave up telling of {of}: {why}; a dead letter is lost: {lost}"),
    };
    tell(name, true, "NotifierGaveUp", message);
}

fn filter_of(on: &NotifierFilter) -> Filter {
    Filter {
        severity: on.severity.clone(),
        categories: on.categories.clone(),
        services: on.services.iter().map(Name::to_string).collect(),
    }
}

fn words_of_filter(plan: &NotifierPlan) -> String {
    serde_json::to_string(&plan.spec.on).unwrap_or_default()
}

fn rate_of(plan: &NotifierPlan) -> u32 {
    plan.spec.rate_limit.unwrap_or(limits::NOTIFIER_RATE)
}

fn redactor_of(plan: &NotifierPlan) -> Arc<Redactor> {
    Arc::new(Redactor::new(plan.secrets.iter().map(String::as_str)))
}

struct Work {
    plan: Arc<NotifierPlan>,
    courier: Courier,
    redactor: Arc<Redactor>,
    counts: Arc<Counts>,
    tell: Tell,
    told: Told,
    health: watch::Sender<Health>,
    failing: bool,
    /// Why it fails, as it was said since it was last edited.
    said: Option<String>,
}

type Flight = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Work {
    async fn run(
        mut self,
        mut desk: Desk,
        mut queue: mpsc::Receiver<ErrorRecord>,
        mut edits: watch::Receiver<Option<Arc<NotifierPlan>>>,
    ) {
        let mut flight: Option<Flight> = None;
        self.keep().await;
        loop {
            desk.lost(self.counts.lost.swap(0, Ordering::Relaxed));
            let waiting = desk.waiting().map(|(_, times)| times).sum();
            self.health.send_if_modified(|health| std::mem::replace(&mut health.waiting, waiting) != waiting);
            let mut until = None;
            if flight.is_none() {
                match desk.next(clock::mono()) {
                    Next::Send(letter) => flight = Some(self.send(&letter)),
                    Next::Wait(at) => until = at,
                }
            }
            tokio::select! {
                // Whether the daemon ends is heard before that nothing is offered any more.
                biased;
                Ok(()) = edits.changed() => {
                    let plan = edits.borrow_and_update().clone();
                    match plan {
                        Some(plan) => self.edited(&mut desk, plan).await,
                        None => return self.keep().await,
                    }
                }
                result = landing(&mut flight) => {
                    flight = None;
                    self.landed(&mut desk, result).await;
                }
                offered = queue.recv() => match offered {
                    Some(record) => desk.offer(clock::mono(), record),
                    None => break,
                },
                () = sleep_until(until) => {}
            }
        }
        for letter in desk.close(clock::mono()) {
            self.bury(&letter, GONE).await;
        }
    }

    /// What waits is delivered as it is now.
    async fn edited(&mut self, desk: &mut Desk, plan: Arc<NotifierPlan>) {
        desk.edited(filter_of(&plan.spec.on), rate_of(&plan));
        if plan.spec.on != self.plan.spec.on {
            self.told = Told::of_waiting(words_of_filter(&plan), clock::wall(), desk.waiting());
        }
        (self.redactor, self.plan, self.said) = (redactor_of(&plan), plan, None);
        self.keep().await;
    }

    fn send(&self, letter: &Letter) -> Flight {
        let message = template::message(self.plan.name.as_str(), letter);
        let sent = deliver::deliver(self.courier.clone(), self.plan.clone(), message);
        // By the secrets of then: it may be edited before an answer comes.
        let redactor = self.redactor.clone();
        Box::pin(async move { sent.await.map_err(|why| redactor.text(&why).into_owned()) })
    }

    async fn landed(&mut self, desk: &mut Desk, result: Result<(), String>) {
        let failure = result.as_ref().err().map(String::as_str);
        self.health.send_modify(|health| health.landed(clock::wall(), failure));
        let Err(why) = result else {
            self.has_told(desk.delivered()).await;
            self.counts.sent.fetch_add(1, Ordering::Relaxed);
            self.said = None;
            if std::mem::take(&mut self.failing) {
                (self.tell)(&self.plan.name, false, "NotifierWorks", "delivers again".into());
            }
            return;
        };
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.failing = true;
        // Another reason is news; a command that says how long it took this time says none.
        let reason = if self.plan.spec.exec.is_some() { without_numbers(&why) } else { why.clone() };
        if self.said.replace(reason.clone()).is_none_or(|said| said != reason) {
            let message = format!("cannot deliver: {why}; it is tried again for an hour");
            (self.tell)(&self.plan.name, true, "NotifierFailed", message);
        }
        let now = clock::mono();
        self.told.try_again(desk.tried(now));
        match desk.failed(now) {
            Failed::Dead(letter) => {
                self.bury(&letter, &why).await;
                self.has_told(Some(letter)).await;
            }
            Failed::Again => self.keep().await,
        }
    }

    async fn has_told(&mut self, letter: Option<Letter>) {
        let errors = letter.into_iter().flat_map(|letter| letter.errors);
        errors.for_each(|(record, _)| self.told.tell(&record));
        // What comes next has an hour of its own.
        self.told.try_again(Duration::ZERO);
        self.keep().await;
    }

    /// Should the daemon be killed, the next one knows what it owes.
    async fn keep(&mut self) {
        let text = serde_json::to_string(&self.told).unwrap_or_default();
        if let Err(why) = self.courier.keep(&self.plan.name, text).await {
            tracing::warn!(%why, name = %self.plan.name, "what a notifier has told cannot be kept");
        }
    }

    async fn bury(&self, letter: &Letter, why: &str) {
        self.counts.dead.fetch_add(1, Ordering::Relaxed);
        bury(&self.courier, &self.tell, &self.plan.name, letter, why).await;
    }
}

async fn landing(flight: &mut Option<Flight>) -> Result<(), String> {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock::mono())).await,
        None => std::future::pending().await,
    }
}
