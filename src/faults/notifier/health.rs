//! How a notifier gets on, for `get` and `describe`.

use crate::base::Stamp;

/// What came of its last messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    pub standing: Standing,
    /// Since when.
    pub since: Stamp,
    pub last_delivered: Option<Stamp>,
    /// The last attempt that failed, and why.
    pub last_failure: Option<(Stamp, String)>,
    /// Failures that it has not told yet.
    pub waiting: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// This daemon had nothing to tell.
    #[default]
    Idle,
    Delivers,
    Fails,
}

impl Health {
    /// An attempt came to this.
    pub fn landed(&mut self, now: Stamp, failure: Option<&str>) {
        let standing = if failure.is_some() { Standing::Fails } else { Standing::Delivers };
        if std::mem::replace(&mut self.standing, standing) != standing {
            self.since = now;
        }
        match failure {
            Some(why) => self.last_failure = Some((now, why.to_owned())),
            None => self.last_delivered = Some(now),
        }
    }

    /// The condition Delivering: its status, a reason and a message.
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        match (self.standing, &self.last_failure) {
            (Standing::Idle, _) => ("Unknown", "NothingToTell", "there was nothing to tell yet".into()),
            (Standing::Delivers, _) => ("True", "Delivered", "its last message was delivered".into()),
            (Standing::Fails, why) => {
                let why = why.as_ref().map_or("", |(_, why)| why);
                ("False", "DeliveryFailed", format!("its last message could not be delivered: {why}"))
            }
        }
    }

    /// The word in the STATUS column of `get`.
    pub fn word(&self) -> &'static str {
        match self.standing {
            Standing::Idle => "Idle",
            Standing::Delivers => "Delivering",
            Standing::Fails => "Failing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reason_and_since_when_are_told() {
        let mut health = Health::default();
        assert_eq!((health.word(), health.condition().0), ("Idle", "Unknown"));
        health.landed(Stamp(1), Some("refused"));
        health.landed(Stamp(2), Some("answered 500"));
        assert_eq!((health.word(), health.since), ("Failing", Stamp(1)));
        assert!(health.condition().2.ends_with(": answered 500"));
        health.landed(Stamp(3), None);
        assert_eq!(
            (health.word(), health.since, health.last_delivered),
            ("Delivering", Stamp(3), Some(Stamp(3)))
        );
        assert_eq!(health.last_failure.unwrap().0, Stamp(2), "what went wrong last is known on");
    }
}
