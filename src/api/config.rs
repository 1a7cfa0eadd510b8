//! The environment that a unit is to have: each value, where it comes from, and what it hides.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use crate::base::ports::without_stand_ins;
use crate::base::redact::MASK;
use crate::engine::Engine;
use crate::engine::launch::account;
use crate::manifest::load::Source;
use crate::manifest::resolve::{Origin, Place};
use crate::os::identity::User;
use crate::plan::UnitSpec;

use super::calls::{Answer, Context, not_found, refuse};
use super::status;
use super::types::{ConfigOrigin, ConfigVar, UnitConfig};

/// As its manifest says, whatever runs: what is started next has it.
pub(super) async fn config(State(context): State<Context>, Path(name): Path<String>) -> Answer<UnitConfig> {
    let asked = context.unit_name(&name).await?;
    let found = context.ask(move |engine| {
        let running = || engine.world.units().get(&asked).map(|unit| &unit.spec);
        let spec = engine.world.desired().units.get(&asked).or_else(running).cloned();
        match spec {
            Some(spec) => Ok(of_unit(engine, &spec)),
            None if engine.sets.objects().configs.contains_key(&asked) => {
                let hint = format!("`unisys describe config/{asked}` shows what it gives, and to whom");
                Err(refuse(StatusCode::NOT_FOUND, format!("{asked} is a Config, and no unit"), hint))
            }
            None => Err(not_found(engine, &[asked])),
        }
    });
    Ok(Json(found.await??))
}

fn of_unit(engine: &Engine, spec: &UnitSpec) -> UnitConfig {
    let launch = &spec.launch;
    let sources = engine.sets.objects().sources().into_iter();
    let sources: BTreeMap<String, &Arc<Source>> =
        sources.map(|source| (source.object.to_string(), source)).collect();
    // A user who is not there is told where the unit cannot be started for that.
    let user = account(&launch.service).ok().flatten();
    let of_user = launch.of_user(&user.as_ref().map(User::variables).unwrap_or_default());
    let mut env: BTreeMap<String, ConfigVar> = BTreeMap::new();
    for var in &launch.env {
        let value = if var.secret { MASK.to_owned() } else { without_stand_ins(&var.value) };
        let shadowed = var.shadowed.iter().map(|origin| shown(origin, &sources)).collect();
        let origin = shown(&var.origin, &sources);
        let var = ConfigVar { name: var.name.clone(), value, masked: var.secret, origin, shadowed };
        env.insert(var.name.clone(), var);
    }
    for (name, value) in of_user {
        let place = Place::Field("spec.user".into());
        let origin = Origin { object: spec.object.to_string(), layer: "user".into(), place };
        let hidden = env.remove(name).map(|var| std::iter::once(var.origin).chain(var.shadowed).collect());
        let origin = shown(&origin, &sources);
        let shadowed = hidden.unwrap_or_default();
        env.insert(name.into(), ConfigVar { name: name.into(), value, masked: false, origin, shadowed });
    }
    let own = format!("{}: ", spec.object);
    let mut notes = status::not_as_written(&engine.world);
    notes.retain(|note| note.starts_with(&own));
    UnitConfig { service: spec.object.name.to_string(), env: env.into_values().collect(), notes }
}

fn shown(origin: &Origin, sources: &BTreeMap<String, &Arc<Source>>) -> ConfigOrigin {
    let (file, line) = match &origin.place {
        Place::Nowhere => (None, None),
        Place::Line(file, line) => (Some(file.clone()), Some(*line)),
        Place::Field(path) => match sources.get(&origin.object) {
            Some(source) => {
                let span = source.span(path);
                (Some(span.file), Some(span.line).filter(|line| *line > 0))
            }
            None => (None, None),
        },
    };
    let file = file.map(|file| file.display().to_string());
    ConfigOrigin { object: origin.object.clone(), layer: origin.layer.clone(), file, line }
}
