//! Tells people: one task a Notifier, which holds its [`desk`] and carries out what that says. Nothing waits for a task: what
//! does not fit into its queue is counted and said.

pub mod deliver;
pub mod desk;
pub mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::base::{Instant, Name, Redactor, limits};
use crate::os::clock;
use crate::plan::notifier::NotifierPlan;

use super::book::ErrorRecord;
use deliver::Courier;
use desk::{Desk, Failed, Filter, Letter, Next};

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
}

struct Running {
    plan: NotifierPlan,
    offers: mpsc::Sender<ErrorRecord>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Notifiers {
    pub fn new(courier: Courier, tell: Tell) -> Self {
        Self { running: BTreeMap::new(), courier, tell }
    }

    /// Those that changed begin anew; what an old one had not delivered is a dead letter.
    pub fn revise(&mut self, plans: &[NotifierPlan]) {
        self.running.retain(|_, running| plans.contains(&running.plan));
        for plan in plans {
            if !self.running.contains_key(&plan.name) {
                self.running.insert(plan.name.clone(), self.begin(plan.clone()));
            }
        }
    }

    fn begin(&self, plan: NotifierPlan) -> Running {
        let (offers, queue) = mpsc::channel(limits::NOTICES_OFFERED);
        let counts = Arc::new(Counts::default());
        let on = &plan.spec.on;
        let filter = Filter {
            severity: on.severity.clone(),
            categories: on.categories.clone(),
            services: on.services.iter().map(Name::to_string).collect(),
        };
        let rate = plan.spec.rate_limit.unwrap_or(limits::NOTIFIER_RATE);
        let desk = Desk::new(filter, rate, u64::from_ne_bytes(clock::random()));
        let work = Work {
            redactor: Redactor::new(plan.secrets.iter().map(String::as_str)),
            plan: Arc::new(plan.clone()),
            courier: self.courier.clone(),
            counts: counts.clone(),
            tell: self.tell.clone(),
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
    }
}

struct Work {
    plan: Arc<NotifierPlan>,
    courier: Courier,
    redactor: Redactor,
    counts: Arc<Counts>,
    tell: Tell,
    failing: bool,
}

type Flight = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Work {
    async fn run(mut self, mut desk: Desk, mut queue: mpsc::Receiver<ErrorRecord>) {
        let mut flight: Option<Flight> = None;
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
            desk.delivered();
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
        if let Failed::Dead(letter) = desk.failed(clock::mono()) {
            self.bury(&letter, &why).await;
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
