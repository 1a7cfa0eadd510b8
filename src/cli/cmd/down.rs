use serde_json::{Value, json};

use super::super::args::Global;
use super::super::client::Client;
use super::super::{Failure, Outcome};

/// `unisys down`: returns once everything has stopped and the keeper is gone.
pub fn run(global: &Global) -> Result<Outcome, Failure> {
    let client = Client::connect(global)?;
    let system: Value = client.get("/v1/system", &[])?;
    let keeper =
        system["status"]["keeperPid"].as_u64().and_then(|pid| crate::os::process::open_any(pid as u32));
    let _: Value = client.post("/v1/down", &json!({}))?;
    if let Some(keeper) = keeper {
        let mut fds = [rustix::event::PollFd::new(&keeper, rustix::event::PollFlags::IN)];
        while matches!(rustix::event::poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
    }
    if !global.quiet {
        println!("stopped");
    }
    Ok(Outcome::Done)
}
