//! Programs that hang and programs that only look like it: who is named what, and who is ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::support::{NOBODY, System, is_root, until};

/// What is shown to a program that hangs: who waits for it.
#[derive(Clone, Copy, PartialEq)]
enum Demand {
    None,
    /// A connection.
    Waits,
    /// One connection after the other.
    Crowds,
    /// A connection with something to read.
    Sends,
    /// A connection to its unix socket.
    Calls,
    /// A datagram to its UDP port.
    Drops,
    /// Its readiness probe asks.
    Asks,
    /// Its heartbeat is expected.
    Beats,
}

use Demand::{Asks, Beats, Calls, Crowds, Drops, None as Nobody, Sends, Waits};

/// Programs that hang, with the name that they have to be given before they are ended.
const FROZEN: [(&str, Demand, &str); 35] = [
    ("lock", Waits, "Deadlock"),
    ("inversion", Waits, "Deadlock"),
    ("event", Waits, "Deadlock"),
    ("no_item", Waits, "Deadlock"),
    ("semaphore", Waits, "Deadlock"),
    ("file_lock", Waits, "Deadlock"),
    ("record_lock", Waits, "Deadlock"),
    ("child_locked", Waits, "Deadlock"),
    ("reads_nothing", Sends, "Deadlock"),
    ("lock", Calls, "Deadlock"),
    ("lock", Drops, "Deadlock"),
    ("stopped", Waits, "Stopped"),
    ("stuck", Waits, "Stuck"),
    ("busy", Crowds, "Livelock"),
    ("lock-asked", Asks, "Deadlock"),
    ("file_lock-asked", Asks, "Deadlock"),
    ("stopped-asked", Asks, "Stopped"),
    ("stuck-asked", Asks, "Stuck"),
    ("busy-asked", Asks, "Livelock"),
    ("regex-asked", Asks, "Livelock"),
    ("spinning_threads-asked", Asks, "Livelock"),
    ("sleeping-asked", Asks, "Blocked"),
    ("silent_peer-asked", Asks, "Blocked"),
    ("no_writer-asked", Asks, "Blocked"),
    ("full_pipe-asked", Asks, "Blocked"),
    ("poll-asked", Asks, "Blocked"),
    ("child_sleeps-asked", Asks, "Blocked"),
    ("lock-beats", Beats, "Deadlock"),
    ("inversion-beats", Beats, "Deadlock"),
    ("busy-beats", Beats, "Livelock"),
    ("stopped-beats", Beats, "Stopped"),
    ("stuck-beats", Beats, "Stuck"),
    ("sleeping-beats", Beats, "Blocked"),
    ("child_locked-beats", Beats, "Deadlock"),
    ("trigger", Beats, "Blocked"),
];

/// Programs that nobody may end: idle, busy, or hanging while nobody waits for them.
const WELL: [(&str, Demand); 33] = [
    ("lock", Nobody),
    ("event", Nobody),
    ("file_lock", Nobody),
    ("child_locked", Nobody),
    ("stopped", Nobody),
    ("stuck", Nobody),
    ("busy", Nobody),
    ("busy", Waits),
    ("regex", Nobody),
    ("sleeping", Nobody),
    ("silent_peer", Nobody),
    ("silent_peer", Waits),
    ("poll", Waits),
    ("poll", Calls),
    ("poll", Drops),
    ("child_sleeps", Nobody),
    ("pool", Nobody),
    ("accepting", Sends),
    ("selecting", Nobody),
    ("looping", Nobody),
    ("keeping", Waits),
    ("not_reading", Sends),
    ("forking", Nobody),
    ("bursts", Nobody),
    ("slow_queue", Nobody),
    ("refusing", Asks),
    ("slowly", Asks),
    ("busy_and_answering", Asks),
    ("compressing", Nobody),
    ("extending", Beats),
    ("lengthening", Beats),
    ("beating_and_busy", Beats),
    ("beat", Beats),
];

/// A directory of its own each, so that the same program can run twice.
fn manifest(name: &str, kind: &str, demand: Demand, program: &Path, dir: &Path) -> String {
    let (probes, heartbeat) = match demand {
        Nobody | Waits | Crowds | Sends | Calls | Drops => ("", ""),
        Asks => (
            "  ports: [{name: main, port: auto}]\n  probes: {readiness: {http: {port: main, path: /}, period: 1s, timeout: 2s}}\n",
            "",
        ),
        Beats => ("  probes: {readiness: {notify: systemd}}\n", "heartbeat: 4s, "),
    };
    format!(
        "---\napiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  command: [python3, {}, {kind}]\n  \
         workingDir: {}\n{}  restart: {{policy: Never}}\n  resources: {{nice: {}}}\n  stop: {{grace: 1s}}\n  circuitBreaker: null\n  \
         watchdog: {{{heartbeat}freeze: {{soft: 2s, hard: 8s}}}}\n",
        program.display(),
        dir.display(),
        probes,
        // Those that keep the machine busy let the others run.
        if ["busy", "regex", "spinning_threads", "compressing", "forking"].contains(&kind) { 10 } else { 0 },
    )
}

fn events(system: &System, name: &str) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let printed = system.ok(&["events", name, "-o", "json"]);
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|event| (text(&event, "reason"), text(&event, "message"))).collect()
}

/// Who was ended, and as what.
fn ended(system: &System, name: &str) -> Option<String> {
    let events = events(system, name);
    let frozen = events.iter().find(|(_, message)| message.contains("is frozen: "))?;
    events.iter().any(|(reason, _)| reason == "Watchdog").then(|| frozen.0.clone())
}

/// One after the other: some keep the machine busy.
static TURN: Mutex<()> = Mutex::new(());

fn run(user: Option<u32>) {
    let _turn = TURN.lock();
    let mut system = System::new(&[]);
    let program = system.path("freezes.py");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/freezes.py"), &program).unwrap();
    let names = FROZEN.iter().map(|(kind, demand, class)| (*kind, *demand, Some(*class)));
    let all: Vec<_> = names.chain(WELL.iter().map(|(kind, demand)| (*kind, *demand, None))).collect();
    let mut text = String::new();
    let mut held = Vec::new();
    let mut programs = BTreeMap::new();
    for (index, (kind, demand, class)) in all.into_iter().enumerate() {
        let name = format!("p{index}");
        let dir = system.path(&name);
        fs::create_dir(&dir).unwrap();
        // Locks that somebody else holds for good.
        for file in ["held", "held-record"] {
            let lock = fs::File::create(dir.join(file)).unwrap();
            if file == "held" {
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
            } else {
                rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
            }
            held.push(lock);
        }
        text.push_str(&manifest(&name, kind, demand, &program, &dir));
        programs.insert(name, (kind, demand, class, dir));
    }
    system.write("manifests/all.yaml", &text);
    user.iter().for_each(|user| system.belong_to(*user));
    system.start(&[]);
    for (name, (_, _, _, dir)) in
        programs.iter().filter(|(_, (_, demand, class, _))| *demand == Asks && class.is_some())
    {
        system.ready(&[name.as_str()]);
        fs::write(dir.join("go"), "").unwrap();
    }
    let (mut clients, mut callers, mut crowded) = (Vec::new(), Vec::new(), Vec::new());
    for (name, (kind, demand, _, dir)) in &programs {
        if matches!(demand, Nobody | Asks | Beats) {
            continue;
        }
        // Written when all of its sockets are there.
        let path = dir.join(format!("{kind}.port"));
        let port: u16 = until("a port", || fs::read_to_string(&path).ok()).trim().parse().unwrap();
        if *demand == Calls {
            callers.push(UnixStream::connect(dir.join("socket")).unwrap());
            continue;
        }
        if *demand == Drops {
            let port: u16 = fs::read_to_string(dir.join("datagrams.port")).unwrap().parse().unwrap();
            UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .send_to(b"is anybody there?", ("127.0.0.1", port))
                .unwrap();
            continue;
        }
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        if *demand == Crowds {
            crowded.push((name, port));
        }
        if *demand == Sends {
            client.write_all(b"is anybody there?").unwrap();
        }
        clients.push(client);
    }
    for (name, port) in crowded {
        let is_told = || events(&system, name).iter().any(|(reason, _)| reason == "Suspected").then_some(());
        until(&format!("{name} is suspected"), is_told);
        clients.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    for (name, (kind, _, class, _)) in &programs {
        let Some(class) = class else { continue };
        let found = until(&format!("the end of {name} ({kind}, {class})"), || ended(&system, name));
        // It may be looked at while it still comes back from saying so.
        let class = if *kind == "trigger" && found == "Watchdog" { "Watchdog" } else { class };
        assert_eq!(found, class, "{name} ({kind}): {:#?}", events(&system, name));
    }
    // By now everybody has been looked at for longer than `hard`.
    for (name, (kind, ..)) in programs.iter().filter(|(_, (_, _, class, _))| class.is_none()) {
        let events = events(&system, name);
        let bad =
            events.iter().find(|(reason, _)| ["Watchdog", "Exited", "Failed"].contains(&reason.as_str()));
        assert_eq!(bad, None, "{name} ({kind}): {events:#?}");
    }
    let dump = system.json(&["crashes", "ls", "p0"])[0]["id"].as_str().unwrap().to_owned();
    let shown = system.json(&["crashes", "show", &dump]);
    let watchdog = &shown["detail"]["watchdog"];
    assert!(watchdog["class"].is_string() && watchdog["message"].is_string(), "{watchdog:#}");
    let threads = &shown["threads"];
    assert!(system.ok(&["crashes", "show", &dump]).contains("threads, when it was found frozen"));
    assert_eq!(
        (&threads[0]["state"], &threads[0]["systemCall"]),
        (&"S".into(), &"futex".into()),
        "{threads:#}"
    );
    drop((clients, callers));
}

#[test]
fn who_hangs_while_somebody_waits_is_named_and_ended_and_nobody_else() {
    run(None);
}

#[test]
fn the_same_as_an_ordinary_user() {
    if !is_root() {
        // Then the other test was as one already.
        return;
    }
    run(Some(NOBODY));
}
