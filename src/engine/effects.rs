//! Carries out what the world asks for. No choice is made here: an effect carries every value.

use crate::base::{InstanceId, Name, Part, PortNumbers, Role, SpawnStage, limits};
use crate::keeper::protocol::{Request, Spawn};
use crate::manifest::spec::probe::{Probe, ProbeAction};
use crate::os::clock;
use crate::os::command::Place;
use crate::plan::machine::working_dir;
use crate::plan::ports::port_number;
use crate::plan::{Launch, UnitSpec};
use crate::probe::Question;
use crate::unit::ProbeKind;
use crate::world::{Effect, Event, InstanceFact};

use super::launch::Unlaunchable;
use super::{Engine, Input, StartedWith, launch};

impl Engine {
    /// Carries out what is asked for; true if any of it became a fact at once. What is only told or written is put off until
    /// the end of the turn: programs that are to be started or stopped do not wait for it.
    pub(super) fn carry_out(&mut self, later: &mut Vec<Effect>) -> bool {
        let mut facts = false;
        while let Some(effect) = self.world.poll_effect() {
            match effect.comes_last() {
                true => later.push(effect),
                false => facts |= self.effect(effect),
            }
        }
        facts
    }

    /// Carries out one; true if it became a fact at once.
    pub(super) fn effect(&mut self, effect: Effect) -> bool {
        let epoch = self.epoch;
        match effect {
            Effect::Spawn { id, part, role, spec, generation, attempt } => {
                return self.spawn(id, part, role, &spec, generation, attempt);
            }
            Effect::Signal { id, signal } => {
                let pid = self.attached.get(&id).and_then(|attached| attached.main_pid);
                self.link.send(&Request::Signal { epoch, id, signal: signal.0, pid });
            }
            Effect::Follow { id, pid } => self.link.send(&Request::Follow { epoch, id, pid }),
            Effect::Kill { id } => self.link.send(&Request::Kill { epoch, id }),
            Effect::Forget { id } => {
                self.detach(&id);
                self.closing.insert(id.clone());
                self.collector.close(id);
            }
            Effect::Remember { id, spec, generation, mark } => {
                let told = self.told.insert(id.clone(), spec.clone());
                let same = told
                    .is_some_and(|told| std::sync::Arc::ptr_eq(&told, &spec) || told.launch == spec.launch);
                let text = (!same).then(|| StartedWith::encode(&spec));
                self.link.send_later(&Request::Remember { epoch, id, mark, generation, spec: text });
            }
            Effect::Limit { id, limits } => self.link.send(&Request::Limit { epoch, id, limits }),
            Effect::Probe { id, kind, seq, timeout, spec, ports } => {
                let question = self.question(&id, kind, &spec, &ports);
                let (asker, inputs) = (self.asker.clone(), self.inputs.clone());
                tokio::spawn(async move {
                    let answer = asker.ask(question, timeout).await;
                    let answered = Input::Probe { id, kind, seq, answer, waited: false };
                    let _ = inputs.send(answered).await;
                });
            }
            Effect::LookAt { id, pid, work, closely } => self.look_at(id, pid, work, closely),
            Effect::ProbeExternal { name, seq, timeout, spec } => {
                let question = external_question(&name, &spec.launch);
                let (asker, inputs) = (self.asker.clone(), self.inputs.clone());
                tokio::spawn(async move {
                    let answer = asker.ask(question, timeout).await;
                    let _ = inputs.send(Input::External { name, seq, answer }).await;
                });
            }
            Effect::WatchPort { id, port } => self.ports.add(id, port),
            Effect::UnwatchPort { id } => self.ports.remove(&id),
            Effect::WatchProgram { name, spec, since } => self.programs.add(name, spec, since),
            Effect::UnwatchProgram { name } => self.programs.remove(&name),
            Effect::WatchLog { id, spec } => {
                if let Some(pattern) = awaited_pattern(&spec) {
                    self.collector.watch(id, pattern);
                }
            }
            Effect::UnwatchLog { id } => self.collector.unwatch(id),
            Effect::RunReload { id, command, timeout, spec, ports } => {
                let question = self.exec_question(&id, &command, &spec, &ports);
                let (asker, inputs) = (self.asker.clone(), self.inputs.clone());
                tokio::spawn(async move {
                    let answer = asker.ask(question, timeout).await;
                    let fact = InstanceFact::Reloaded { ok: answer.ok, message: answer.message };
                    let _ = inputs.send(Input::Fact { id, fact }).await;
                });
            }
            Effect::TailLog { id, revision } => self.tail_log(id, revision),
            Effect::SaveRollout { name, rollout } => self.store.save_rollout(name, rollout),
            Effect::Announce(record) => {
                self.saw_events = true;
                tracing::info!(
                    object = %record.object, reason = &*record.reason, change = record.change, cause = record.cause,
                    warning = record.warning, id = record.id, "{}", record.message
                );
                self.console.record(&record);
                self.announced(&record);
            }
            Effect::Failed(failure) => self.failed(failure),
            Effect::SaveChange(change) => self.store.save_change(&change),
            Effect::SaveUnit { name, checkpoint } => self.store.save_units(vec![(name, checkpoint)]),
            Effect::SaveUnits { units } => self.store.save_units(units),
            Effect::LookAtMachine => {
                self.look_at_machine_as_accepted();
                return true;
            }
            Effect::DropUnit { name } => {
                self.programs.remove(&name);
                self.faults.forget_unit(&name);
                self.store.drop_unit(name);
            }
            Effect::GoingDown { by, until } => self.link.send(&Request::Down { epoch, by, until }),
            Effect::Finished { .. } => {
                self.finished = true;
                self.end_if_finished();
            }
        }
        false
    }

    /// Everything has stopped and is written: daemon and keeper end.
    pub(super) fn end_if_finished(&mut self) {
        // The end does not wait for room on the disk.
        let waits = !self.closing.is_empty() && self.logs_stuck.is_none();
        if !self.finished || self.ending || waits {
            return;
        }
        self.store.flush();
        for id in self.unrecorded.clone() {
            self.let_go(&id);
        }
        self.ending = true;
        let (epoch, code) = (self.epoch, self.exit_code());
        self.link.send(&Request::Exit { epoch, code });
    }

    /// 0 after a clean stop, 130 when a second Ctrl-C killed (rules.md).
    fn exit_code(&self) -> u8 {
        if self.console.was_immediate() { 130 } else { 0 }
    }

    fn spawn(
        &mut self,
        id: InstanceId,
        part: Part,
        role: Role,
        spec: &std::sync::Arc<UnitSpec>,
        generation: crate::base::Generation,
        attempt: u32,
    ) -> bool {
        let clash = (part == Part::Main).then(|| self.port_clash(spec)).flatten();
        if let Some(detail) = clash {
            self.fact(id, InstanceFact::PortHeld { detail });
            return true;
        }
        match launch::request(&id, part, spec, generation, self.epoch) {
            Ok(mut request) => {
                request.role = role;
                request.attempt = attempt;
                if part == Part::Main {
                    self.told.insert(id, spec.clone());
                }
                self.link.send(&Request::Spawn(request));
                false
            }
            Err(Unlaunchable { errno, detail }) => {
                let fact = InstanceFact::SpawnFailed { part, stage: SpawnStage::Exec, errno, detail };
                self.world.handle(clock::now(), Event::Instance { id, fact });
                true
            }
        }
    }

    fn question(&self, id: &InstanceId, kind: ProbeKind, spec: &UnitSpec, ports: &PortNumbers) -> Question {
        let Some(action) = spec.launch.probe(kind).and_then(Probe::action) else {
            return Question::Impossible("there is no such probe".into());
        };
        match action {
            ProbeAction::Exec(exec) => self.exec_question(id, &exec.command, spec, ports),
            action => plain_question(action, &spec.launch, ports),
        }
    }

    /// A command in the unit's environment, as its user; the reload of a service is asked like a probe.
    fn exec_question(
        &self,
        id: &InstanceId,
        argv: &[String],
        spec: &UnitSpec,
        ports: &PortNumbers,
    ) -> Question {
        match launch::command(id, argv, spec) {
            Ok(mut command) => {
                launch::fill(&mut command, ports, &spec.launch.service);
                command.env.push((InstanceId::MARKER.into(), format!("{}/{id}", self.state_id)));
                let pid = self.main_pid(id).map(|pid| ("MAINPID".to_owned(), pid.to_string()));
                command.env.extend(pid);
                let cgroup = self.cgroups.as_ref().map(|tree| tree.dir(id));
                let place = Place { nofile: self.options.nofile, run: self.state.run(), cgroup };
                Question::Exec { command, place }
            }
            Err(fault) => Question::Impossible(fault.detail),
        }
    }
}

fn plain_question(action: ProbeAction<'_>, launch: &Launch, ports: &PortNumbers) -> Question {
    let no_port = || Question::Impossible("its port has no number".into());
    let service = &launch.service;
    match action {
        ProbeAction::Http(http) => match port_number(&http.port, service, ports) {
            Some(port) => Question::Http { port, probe: http.clone() },
            None => no_port(),
        },
        ProbeAction::Tcp(tcp) => match port_number(&tcp.port, service, ports) {
            Some(port) => {
                let host = tcp.host.clone().unwrap_or_else(|| "127.0.0.1".into());
                Question::Tcp { host, port }
            }
            None => no_port(),
        },
        ProbeAction::Grpc(grpc) => match port_number(&grpc.port, service, ports) {
            Some(port) => Question::Grpc { port, service: grpc.service.clone().unwrap_or_default() },
            None => no_port(),
        },
        ProbeAction::File(file) => Question::File { path: working_dir(launch).join(&file.path) },
        ProbeAction::Exec(_) | ProbeAction::Notify(_) | ProbeAction::Log(_) => {
            Question::Impossible("nobody asks this probe".into())
        }
    }
}

/// Of an External: it has no environment of its own; a command gets the PATH of the default.
fn external_question(name: &Name, launch: &Launch) -> Question {
    let Some(action) = launch.service.probes.readiness.as_deref().and_then(Probe::action) else {
        return Question::Impossible("there is no such probe".into());
    };
    match action {
        ProbeAction::Exec(exec) => {
            let spec_less = crate::plan::machine::find_in(
                &exec.command,
                launch,
                &crate::os::files::ThisMachine::default(),
            );
            match spec_less {
                Ok(path) => {
                    let id = InstanceId {
                        unit: name.clone(),
                        ordinal: Default::default(),
                        incarnation: Default::default(),
                    };
                    let command = Spawn::command(id, &path, &exec.command, &launch.base_dir);
                    let command = Spawn { no_new_privileges: true, wall: clock::wall(), ..command };
                    let place = Place { nofile: (1024, 1024), run: Default::default(), cgroup: None };
                    Question::Exec { command: Box::new(command), place }
                }
                Err(fault) => Question::Impossible(fault.to_string()),
            }
        }
        action => plain_question(action, launch, &PortNumbers::default()),
    }
}

fn awaited_pattern(spec: &UnitSpec) -> Option<String> {
    let probes = &spec.launch.service.probes;
    [&probes.startup, &probes.readiness].into_iter().find_map(|probe| match probe.as_deref()?.action()? {
        ProbeAction::Log(log) => Some(log.pattern.clone()),
        _ => None,
    })
}

const _: () = assert!(limits::COMMAND_OUTPUT_BYTES > 0);
