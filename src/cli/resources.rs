//! What an instance used, out of its crash dump, for a person: the beginning, the most and the end of each curve.

use serde_json::Value;

use crate::base::{Stamp, format_duration};

use super::render;

/// The section of `crashes show`; nothing of a dump that has none.
pub fn text(resources: &Value) -> String {
    if !resources.is_object() {
        return String::new();
    }
    let samples: &[Value] = resources["samples"].as_array().map_or(&[], Vec::as_slice);
    let mut out = format!("\nresources, {}\n", heading(samples, resources));
    if !samples.is_empty() {
        out.push_str(&indented(&curves(samples)));
    }
    let mut sums = Vec::new();
    sums.extend(sum("its main program in all", &resources["spent"]));
    sums.extend(sum("its cgroup in all", &resources["cgroup"]));
    sums.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    out.push_str(&indented(&pressure(&resources["cgroup"]["pressure"])));
    out
}

fn heading(samples: &[Value], resources: &Value) -> String {
    let at = |sample: Option<&Value>| serde_json::from_value::<Stamp>(sample?["at"].clone()).ok();
    match (at(samples.first()), at(samples.last())) {
        (Some(first), Some(last)) => {
            let seconds = (last.0 - first.0).max(0) as u64 / 1000;
            let within = format_duration(std::time::Duration::from_secs(seconds));
            let count =
                if samples.len() == 1 { "1 reading".into() } else { format!("{} readings", samples.len()) };
            format!("{count} within {within}, the last at {last}")
        }
        _ => render::neutral(resources["note"].as_str().unwrap_or("never read")),
    }
}

fn curves(samples: &[Value]) -> Vec<Vec<String>> {
    let of = |name: &str| samples.iter().filter_map(|sample| sample[name].as_f64()).collect::<Vec<f64>>();
    let count = |value: f64| format!("{value:.0}");
    let rows = [
        ("memory", of("memoryBytes"), &bytes as &dyn Fn(f64) -> String),
        ("processor", shares(samples), &|share| format!("{share:.0}%")),
        ("processes", of("processes"), &count),
        ("threads", of("threads"), &count),
        ("open files", of("openFiles"), &count),
    ];
    let mut lines = vec![["", "first", "most", "last"].map(str::to_owned).to_vec()];
    lines.extend(rows.into_iter().map(|(name, values, shown)| {
        let most = values.iter().copied().reduce(f64::max);
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), shown);
        vec![name.to_owned(), cell(values.first().copied()), cell(most), cell(values.last().copied())]
    }));
    lines
}

/// Percent of one processor between each two readings; left out where a process has ended and took its time along.
fn shares(samples: &[Value]) -> Vec<f64> {
    let reading = |sample: &Value| {
        let at: Stamp = serde_json::from_value(sample["at"].clone()).ok()?;
        Some((at.0 as f64, sample["cpuMs"].as_f64()?))
    };
    let share = |two: &[Value]| {
        let [(from, before), (to, after)] = [reading(&two[0])?, reading(&two[1])?];
        (to > from && after >= before).then(|| (after - before) / (to - from) * 100.0)
    };
    samples.windows(2).filter_map(share).collect()
}

/// Whatever is known of sums, in words.
fn sum(of: &str, sums: &Value) -> Option<String> {
    let number = |name: &str| sums[name].as_u64();
    let cpu = number("userCpuMs").zip(number("systemCpuMs")).map(|(user, system)| user + system);
    let often = |name: &str, words: &str| match number(name)? {
        0 => None,
        1 => Some(format!("{words} once")),
        count => Some(format!("{words} {count} times")),
    };
    let parts = [
        number("peakMemoryBytes").map(|peak| format!("{} at most", bytes(peak as f64))),
        cpu.map(|ms| format!("{}s of processor time", seconds(ms))),
        number("peakPids").map(|count| format!("{count} tasks at most")),
        often("memoryHighEvents", "slowed at memory.high"),
        often("memoryMaxEvents", "stopped at memory.max"),
        often("oomKills", "killed for want of memory"),
        number("throttledMs").filter(|ms| *ms > 0).map(|ms| format!("{}s held back at cpu.max", seconds(ms))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{of}: {}", parts.join(", ")))
}

fn pressure(found: &Value) -> Vec<Vec<String>> {
    let kinds = ["memory", "cpu", "io"].into_iter().filter(|kind| found[kind].is_object());
    let rows = kinds.flat_map(|kind| ["some", "full"].map(|who| (kind, who, &found[kind][who])));
    let rows: Vec<Vec<String>> = rows
        .filter(|(.., waited)| waited.is_object())
        .map(|(kind, who, waited)| {
            let share = |name: &str| waited[name].as_f64().map_or("-".into(), |share| format!("{share:.1}%"));
            let total = waited["totalMs"].as_u64().map_or("-".into(), |ms| format!("{}s", seconds(ms)));
            vec![format!("{kind}, {who}"), share("avg10"), share("avg60"), share("avg300"), total]
        })
        .collect();
    match rows.is_empty() {
        true => rows,
        false => {
            let head = ["waited for", "10s", "60s", "300s", "in all"].map(str::to_owned).to_vec();
            [head].into_iter().chain(rows).collect()
        }
    }
}

fn indented(lines: &[Vec<String>]) -> String {
    render::columns(lines).lines().map(|line| format!("  {line}\n")).collect()
}

fn seconds(ms: u64) -> String {
    format!("{:.1}", ms as f64 / 1000.0)
}

fn bytes(value: f64) -> String {
    let (unit, size) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, size)| value >= *size as f64)
        .unwrap_or(("B", 1));
    let value = value / size as f64;
    if size == 1 { format!("{value:.0} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(second: u32, memory: u64, cpu: u64, open: Option<u32>) -> Value {
        json!({
            "at": format!("2026-01-01T00:00:{second:02}.000Z"), "memoryBytes": memory << 20, "cpuMs": cpu, "processes": 1,
            "threads": second + 1, "openFiles": open
        })
    }

    #[test]
    fn a_curve_is_shown_by_its_beginning_its_most_and_its_end() {
        let waited = json!({"avg10": 50.25, "avg60": 9.0, "avg300": 2.0, "totalMs": 6100});
        let samples = [
            sample(0, 10, 0, Some(5)),
            sample(5, 80, 4500, None),
            sample(10, 60, 4400, Some(9)),
            sample(20, 2048, 5400, Some(7)),
        ];
        let resources = json!({
            "samples": samples,
            "spent": {"userCpuMs": 5000, "systemCpuMs": 520, "peakMemoryBytes": null},
            "cgroup": {
                "peakMemoryBytes": 2200u64 << 20, "oomKills": 1, "memoryHighEvents": 0, "memoryMaxEvents": null,
                "peakPids": null, "userCpuMs": 5000, "systemCpuMs": 600, "throttledMs": 2100,
                "pressure": {"memory": {"some": waited, "full": null}, "cpu": null, "io": null}
            }
        });
        let expected = "
resources, 4 readings within 20s, the last at 2026-01-01T00:00:20.000Z
               first      most      last
  memory       10.0 MiB   2.0 GiB   2.0 GiB
  processor    90%        90%       10%
  processes    1          1         1
  threads      1          21        21
  open files   5          9         7
  its main program in all: 5.5s of processor time
  its cgroup in all: 2.1 GiB at most, 5.6s of processor time, killed for want of memory once, 2.1s held back at cpu.max
  waited for     10s     60s    300s   in all
  memory, some   50.2%   9.0%   2.0%   6.1s
";
        assert_eq!(text(&resources), expected);
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let note = json!({"samples": [], "spent": null, "cgroup": null, "note": "nothing wakes for it"});
        for (resources, expected) in [
            (Value::Null, ""),
            (note, "\nresources, nothing wakes for it\n"),
            (json!({"samples": [{"at": "x"}]}), "\nresources, never read\n"),
        ] {
            assert!(text(&resources).starts_with(expected), "{}", text(&resources));
        }
        let one = text(&json!({"samples": [sample(3, 1, 1, None)]}));
        assert!(
            one.contains("1 reading within 0s") && one.contains("  processor    -         -         -\n"),
            "{one}"
        );
    }
}
