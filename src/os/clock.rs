//! Clocks, randomness and the identity of this boot.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::base::{Instant, Now, Stamp};

/// `CLOCK_BOOTTIME` now.
pub fn mono() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A moment of `CLOCK_MONOTONIC`, in microseconds, as programs tell it (sd_notify(3)), on our clock, which counts suspend as
/// well. Rounded up: of two that follow each other within a microsecond the later one is not before the earlier.
pub fn from_monotonic(micros: u64) -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let ahead = mono().0.saturating_sub(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
    Instant(micros.saturating_add(1).saturating_mul(1000).saturating_add(ahead))
}

pub fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(since.as_millis() as i64)
}

pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// So many random bytes of the kernel (getrandom(2)).
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    // SAFETY: the buffer is ours and as long as said. Up to 256 bytes are never cut short once the pool is ready.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    debug_assert_eq!(got, N as isize);
    bytes
}

/// Identity of this boot: a pid means nothing in another one.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The same as a number: its first 64 bits.
pub fn boot() -> u64 {
    let digits: String = boot_id().chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// When the first process that is seen from here began, in ticks: a container that is started again has another one, in the same boot.
/// 0 where that cannot be known.
pub fn first() -> u64 {
    super::process::stat(1).map_or(0, |stat| stat.start)
}

/// Whether pids that were recorded beside this ([`first`]) are those of here.
pub fn is_first(recorded: u64) -> bool {
    let own = first();
    recorded == 0 || own == 0 || recorded == own
}

/// Processor time in ticks (proc_pid_stat(5), `utime`).
pub fn ticks(ticks: u64) -> std::time::Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    std::time::Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second))
}

/// When a process started, on the clock of [`mono`]: /proc's `starttime` counts ticks since boot (proc_pid_stat(5)).
pub fn of_ticks(ticks: u64) -> Instant {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Instant(ticks.saturating_mul(1_000_000_000 / per_second))
}

/// The other way round: the tick that a moment lies in.
pub fn to_ticks(at: Instant) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    at.0 / (1_000_000_000 / per_second)
}
