//! Exponential backoff with jitter, in one place: restarts, retries of the daemon, notifiers.

use std::time::Duration;

use super::Rng;

/// `initial × factor^n`, never above `max`, each value moved by up to ± `jitter` of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffCurve {
    pub initial: Duration,
    pub factor: f64,
    pub max: Duration,
    /// 0.2 means ± 20 %.
    pub jitter: f64,
}

impl BackoffCurve {
    /// The delay before attempt number `attempt` (0 is the first), jitter included.
    pub fn delay(&self, attempt: u32, rng: &mut Rng) -> Duration {
        if self.initial.is_zero() {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(attempt.min(1024)).unwrap_or(1024);
        let grown = self.initial.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let swing = self.jitter.clamp(0.0, 1.0) * (2.0 * rng.unit() - 1.0);
        Duration::try_from_secs_f64(capped * (1.0 + swing)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: BackoffCurve = BackoffCurve {
        initial: Duration::from_millis(100),
        factor: 2.0,
        max: Duration::from_secs(300),
        jitter: 0.0,
    };

    #[test]
    fn it_doubles_up_to_its_cap() {
        let mut rng = Rng::new(1);
        let delays: Vec<_> = (0..4).map(|n| CURVE.delay(n, &mut rng).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800]);
        assert_eq!(CURVE.delay(u32::MAX, &mut rng), CURVE.max);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let curve = BackoffCurve { jitter: 0.2, ..CURVE };
        let mut rng = Rng::new(7);
        for _ in 0..1000 {
            let delay = curve.delay(0, &mut rng).as_millis();
            assert!((80..=120).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn an_initial_of_zero_means_at_once_for_ever() {
        let curve = BackoffCurve { initial: Duration::ZERO, ..CURVE };
        assert_eq!(curve.delay(30, &mut Rng::new(1)), Duration::ZERO);
    }
}
