//! What keeper and daemon say where they were started: a terminal, a pipe, a file. A terminal that is stopped with Ctrl-S and a pager
//! that waits take nothing for as long as they like, a reader may have gone, a disk may be full: none of it holds up or ends who
//! watches over services. So a thread of its own says it.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::base::limits;

#[derive(Clone, Copy, Debug)]
pub enum To {
    Stdout,
    Stderr,
}

enum Word {
    Line(To, String),
    /// Everything before it has been said once this is dropped.
    Last(SyncSender<()>),
}

/// None if the thread cannot be had: then nothing is said.
static MOUTH: OnceLock<Option<SyncSender<Word>>> = OnceLock::new();
/// Lines for which there was no room.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// Says a line, or several, as soon as somebody takes it.
pub fn say(to: To, text: String) {
    let Some(mouth) = MOUTH.get_or_init(begin) else { return };
    let left_out = LEFT_OUT.load(Ordering::Relaxed);
    if left_out > 0 {
        let note =
            format!("unisys: {left_out} lines are left out here, as nobody took them; see `unisys events`");
        if mouth.try_send(Word::Line(to, note)).is_ok() {
            LEFT_OUT.fetch_sub(left_out, Ordering::Relaxed);
        }
    }
    if mouth.try_send(Word::Line(to, text)).is_err() {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Before the process ends, or becomes another program: what was said is taken, or nobody takes it.
pub fn finish() {
    let Some(Some(mouth)) = MOUTH.get() else { return };
    let (last, said) = sync_channel(0);
    if mouth.try_send(Word::Last(last)).is_ok() {
        let _ = said.recv_timeout(limits::SAID_WITHIN);
    }
}

fn begin() -> Option<SyncSender<Word>> {
    let (mouth, words) = sync_channel(limits::UNSAID_LINES);
    thread::Builder::new().name("voice".into()).stack_size(64 << 10).spawn(move || speak(&words)).ok()?;
    Some(mouth)
}

fn speak(words: &Receiver<Word>) {
    while let Ok(word) = words.recv() {
        // A reader that has gone, and a full disk, are no reason for anything.
        let _ = match word {
            Word::Line(To::Stdout, text) => writeln!(std::io::stdout(), "{text}"),
            Word::Line(To::Stderr, text) => writeln!(std::io::stderr(), "{text}"),
            Word::Last(said) => {
                drop(said);
                Ok(())
            }
        };
    }
}

/// A line on stderr from the keeper or the daemon: [`say`].
macro_rules! complain {
    ($($words:tt)*) => { $crate::os::voice::say($crate::os::voice::To::Stderr, format!($($words)*)) };
}
pub(crate) use complain;
