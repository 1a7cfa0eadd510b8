//! Tells people: one task a Notifier, which holds its [`desk`] and carries out what that says. Nothing waits for a task: what
//! does not fit into its queue is counted and said.

pub mod deliver;
pub mod desk;
pub mod template;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::base::{Instant, Name, Redactor, limits};
use crate::os::clock;
use crate::plan::notifier::NotifierPlan;

use super::book::{Book, ErrorRecord};
use deliver::Courier;
use desk::{Desk, Failed, Filter, Letter, Next};
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
    plan: NotifierPlan,
    offers: mpsc::Sender<ErrorRecord>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Notifiers {
    pub fn new(courier: Courier, tell: Tell) -> Self {
        Self { running: BTreeMap::new(), courier, tell, revised: false }
    }

    /// Those that changed begin anew; what an old one had not delivered is a dead letter. The first ones of a daemon go on where
    /// those of an earlier one were killed, by the book of failures.
    pub fn revise(&mut self, plans: &[NotifierPlan], book: &Book) {
        let first = !std::mem::replace(&mut self.revised, true);
        self.running.retain(|_, running| plans.contains(&running.plan));
        for plan in plans {
            if !self.running.contains_key(&plan.name) {
                let kept = if first { self.courier.kept(&plan.name) } else { None };
                self.running.insert(plan.name.clone(), self.begin(plan.clone(), kept.as_deref(), book));
            }
        }
        self.courier.forget_others(|name| plans.iter().any(|plan| plan.name.as_str() == name));
    }

    fn begin(&self, plan: NotifierPlan, kept: Option<&str>, book: &Book) -> Running {
        let (offers, queue) = mpsc::channel(limits::NOTICES_OFFERED);
        let counts = Arc::new(Counts::default());
        let on = &plan.spec.on;
        let filter = Filter {
            severity: on.severity.clone(),
            categories: on.categories.clone(),
            services: on.services.iter().map(Name::to_string).collect(),
        };
        let rate = plan.spec.rate_limit.unwrap_or(limits::NOTIFIER_RATE);
        let mut desk = Desk::new(filter, rate, u64::from_ne_bytes(clock::random()));
        let on = serde_json::to_string(&plan.spec.on).unwrap_or_default();
        let mut told =
            kept.and_then(|text| Told::read(text, &on)).unwrap_or_else(|| Told::new(on, clock::wall()));
        told.keep(book.iter());
        let records: Vec<&ErrorRecord> = book.iter().collect();
        if records.iter().any(|record| told.owed(record) > 0) {
            desk.has_tried(told.tried());
        }
        records.into_iter().rev().for_each(|record| desk.owe(record.clone(), told.owed(record)));
        let work = Work {
            redactor: Redactor::new(plan.secrets.iter().map(String::as_str)),
            plan: Arc::new(plan.clone()),
            courier: self.courier.clone(),
            counts: counts.clone(),
            tell: self.tell.clone(),
            told,
            failing: false,
        };
        Running { plan, offers, counts, task: tokio::spawn(work.run(desk, queue)) }
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

    /// The daemon ends: what is not delivered becomes dead letters, which takes one write each.
    pub async fn end(&mut self) {
        for (_, Running { offers, task, .. }) in std::mem::take(&mut self.running) {
            drop(offers);
            let _ = tokio::time::timeout(limits::NOTIFIER_TIMEOUT, task).await;
        }
        // Nothing is owed to anybody.
        self.courier.forget_others(|_| false);
    }
}

struct Work {
    plan: Arc<NotifierPlan>,
    courier: Courier,
    redactor: Redactor,
    counts: Arc<Counts>,
    tell: Tell,
    told: Told,
    failing: bool,
}

type Flight = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Work {
    async fn run(mut self, mut desk: Desk, mut queue: mpsc::Receiver<ErrorRecord>) {
        let mut flight: Option<Flight> = None;
        self.keep().await;
        loop {
            desk.lost(self.counts.lost.swap(0, Ordering::Relaxed));
            let mut until = None;
            if flight.is_none() {
                match desk.next(clock::mono()) {
                    Next::Send(letter) => flight = Some(self.send(&letter)),
                    Next::Wait(at) => until = at,
                }
            }
            tokio::select! {
                offered = queue.recv() => match offered {
                    Some(record) => desk.offer(clock::mono(), record),
                    None => break,
                },
                result = landing(&mut flight) => {
                    flight = None;
                    self.landed(&mut desk, result).await;
                }
                () = sleep_until(until) => {}
            }
        }
        for letter in desk.close(clock::mono()) {
            self.bury(&letter, "the notifier or the daemon ended").await;
        }
    }

    fn send(&self, letter: &Letter) -> Flight {
        let message = template::message(self.plan.name.as_str(), letter);
        Box::pin(deliver::deliver(self.courier.clone(), self.plan.clone(), message))
    }

    async fn landed(&mut self, desk: &mut Desk, result: Result<(), String>) {
        let Err(why) = result else {
            self.has_told(desk.delivered()).await;
            self.counts.sent.fetch_add(1, Ordering::Relaxed);
            if std::mem::take(&mut self.failing) {
                (self.tell)(&self.plan.name, false, "NotifierWorks", "delivers again".into());
            }
            return;
        };
        let why = self.redactor.text(&why).into_owned();
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
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
        let mut message = template::message(self.plan.name.as_str(), letter);
        message["undelivered"] = why.into();
        if let Err(why) = self.courier.bury(message).await {
            (self.tell)(&self.plan.name, true, "NotifierFailed", format!("a dead letter is lost: {why}"));
        }
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
