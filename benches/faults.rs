//! What handling one failure costs: its last words are classified and it is written into the book. Prints microseconds a
//! failure, the median of batches. The figure to reach: at most 50.

use std::time::Instant;

use unisys::base::{Exit, Stamp};
use unisys::faults::book::{Book, Sighting};
use unisys::faults::{Evidence, Patterns, classify};
use unisys::unit::EndReason;

const BATCHES: usize = 51;
const FAILURES: usize = 200;

fn main() {
    let plain: Vec<String> =
        (0..80).map(|n| format!("2026-01-01 10:00:{n:02} INFO request {n} took {n} ms")).collect();
    let mut traceback = plain[..60].to_vec();
    traceback.push("Traceback (most recent call last):".into());
    traceback.extend(
        (0..9).flat_map(|n| [format!("  File \"/app/m{n}.py\", line {n}, in f"), "    g()".to_owned()]),
    );
    traceback.push("ConnectionRefusedError: [Errno 111] Connection refused".into());
    let cases = [("80 lines that say nothing", &plain), ("80 lines with a traceback", &traceback)];
    for (name, stderr) in cases {
        println!("{name:<28} {:>7.1} µs a failure", median(stderr));
    }
}

fn median(stderr: &[String]) -> f64 {
    let (patterns, mut book) = (Patterns::default(), Book::default());
    // The first one builds the pattern set.
    handle(stderr, &patterns, &mut book, 0);
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let begun = Instant::now();
            (0..FAILURES).for_each(|n| handle(stderr, &patterns, &mut book, n));
            begun.elapsed().as_secs_f64() * 1e6 / FAILURES as f64
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    batches[BATCHES / 2]
}

fn handle(stderr: &[String], patterns: &Patterns, book: &mut Book, n: usize) {
    let unit = format!("service/s{n}");
    let evidence = Evidence {
        unit: &unit,
        reason: &EndReason::Exited,
        exit: Some(Exit::Code(1)),
        words: "ended: exit code 1",
        permanent: false,
        success: false,
        probe: "",
        stderr,
        dependency_down: None,
    };
    let found = classify(&evidence, patterns);
    book.record(Sighting {
        fingerprint: found.fingerprint,
        category: found.category,
        severity: found.severity,
        unit,
        incarnation: Some(n as u64),
        revision: 1,
        message: found.message,
        at: Stamp(n as i64),
        cause: Some(n as u64),
        context: Default::default(),
        follows: false,
    });
}
