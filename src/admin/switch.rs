//! Turns a switch as the body of a request says.

use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::route::Turn;
use crate::config::FloodConfig;
use crate::processor::{By, Handle, Skip, SwitchError};
use crate::record::{Position, ShardId};
use crate::resource::{BreakerControl, OnOpen};

/// `who` and `why` stand in a log line.
const LONGEST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Breaker {
    control: Control,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Control {
    Open,
    Close,
    Auto,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    on_open: OnOpen,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Siphon {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skipped {
    shard: String,
    position: String,
}

/// Does what `turn` and `body` say.
pub(super) fn turn(handle: &Handle, turn: &Turn, body: &[u8]) -> Reply {
    match try_turn(handle, turn, body) {
        Ok(done) => Reply::json(StatusCode::OK, &done),
        Err(reply) => reply,
    }
}

fn try_turn(handle: &Handle, turn: &Turn, body: &[u8]) -> Result<Value, Reply> {
    let mut done = json!({ "done": true });
    match turn {
        Turn::Pause(name) => {
            let (by, Nothing {}) = read(body, "")?;
            handle.pause(name, &by).map_err(refused)?;
        }
        Turn::Resume(name) => {
            let (by, Nothing {}) = read(body, "")?;
            handle.resume(name, &by).map_err(refused)?;
        }
        Turn::FloodGuard(name) => {
            let accepted = "\"enabled\": false, or any of \"ratio\", \"window\", \"min\", \"cool_down\", \"longest\"";
            let (by, change): (_, FloodConfig) = read(body, accepted)?;
            if change == FloodConfig::default() {
                return Err(bad(format!("nothing to change; accepted: {accepted}")));
            }
            let guard = change.apply(handle.flood_guard_of(name).map_err(refused)?);
            handle.flood_guard(name, guard, &by).map_err(refused)?;
        }
        Turn::Breaker(name) => {
            let accepted = "\"control\": \"open\", \"close\" or \"auto\"";
            let (by, Breaker { control }) = read(body, accepted)?;
            let control = match control {
                Control::Open => BreakerControl::HeldOpen,
                Control::Close => BreakerControl::HeldClosed,
                Control::Auto => BreakerControl::Auto,
            };
            handle.breaker(name, control, &by).map_err(refused)?;
        }
        Turn::OnOpen(name) => {
            let accepted = "\"on_open\": \"fault\", \"pause\" or \"siphon\"";
            let (by, Opened { on_open }) = read(body, accepted)?;
            handle.on_open(name, on_open, &by).map_err(refused)?;
        }
        Turn::Siphon(name) => {
            let (by, Siphon { on }) = read(body, "\"on\": true or false")?;
            handle.siphon(name, on, &by).map_err(refused)?;
        }
        Turn::Skip => {
            let accepted = "\"shard\" and \"position\", as /status shows them";
            let (by, Skipped { shard, position }) = read(body, accepted)?;
            let position: Position = position
                .parse()
                .map_err(|_| bad("`position` is none; accepted: one as /status shows it"))?;
            match handle.skip(&ShardId::new(shard), &position, &by).map_err(refused)? {
                Skip::Now { pipelines } => done["pipelines"] = json!(pipelines),
                Skip::WhenItComes => done["when_it_comes"] = json!(true),
            }
        }
    }
    Ok(done)
}

fn bad(error: impl Into<String>) -> Reply {
    Reply::error(StatusCode::BAD_REQUEST, error)
}

fn refused(error: SwitchError) -> Reply {
    let status = match error {
        SwitchError::Unknown { .. } => StatusCode::NOT_FOUND,
        SwitchError::Settled { .. } => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    };
    Reply::error(status, error.to_string())
}

/// Who and why, and what the switch itself takes.
fn read<T: DeserializeOwned>(body: &[u8], accepted: &str) -> Result<(By, T), Reply> {
    let and = if accepted.is_empty() { "" } else { ", and " };
    let accepted = format!("accepted: a JSON object of \"who\" and \"why\"{and}{accepted}");
    let mut object: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not a JSON object: {error}; {accepted}")))?;
    let mut text = |field: &str| match object.remove(field) {
        Some(Value::String(text)) if !text.trim().is_empty() && text.len() <= LONGEST => Ok(text),
        _ => Err(bad(format!(
            "`{field}` must be a text that is not empty, of at most {LONGEST} bytes; {accepted}"
        ))),
    };
    let by = By::new(text("who")?, text("why")?);
    let rest = serde_json::from_value(Value::Object(object))
        .map_err(|error| bad(format!("{error}; {accepted}")))?;
    Ok((by, rest))
}
