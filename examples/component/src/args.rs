//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use orders_component::generate::Generator;

const HELP: &str = "\
Says which orders are complete and which are overdue.

Usage: orders COMMAND [--config FILE] [--data DIR]

  run       process events until a signal comes (or the events end: `follow = false`)
  check     print the plan that comes of the configuration, or what is wrong with it
  ask METHOD PATH [JSON]
            ask a component that runs, on its socket: ask GET /status
  generate  write events to try it with
  demo      generate, then run to the end of the events

  --config FILE   the configuration; what it does not say has its default [env: ORDERS_CONFIG]
  --data DIR      where everything is, instead of `data` in the configuration
  --seed N        of generate and demo: the same seed makes the same events [default: 1]
  --orders N      of generate and demo: how many orders [default: 1000]
  --poison SHARE  of generate and demo: the share of events that cannot be processed [default: 0.02]
  --help          print this

The first SIGTERM or Ctrl-C ends it in peace, a second one at once. Exit codes: 0 all is settled, 1 it failed,
2 command line or configuration cannot be used, 3 events are left to the next life.";

pub(crate) struct Args {
    pub(crate) command: Command,
    pub(crate) config: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
}

pub(crate) enum Command {
    Run,
    Check,
    Ask {
        method: String,
        path: String,
        body: String,
    },
    Generate(Generator),
    Demo(Generator),
    /// To print this, and no more.
    Help(&'static str),
}

impl Args {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
        let (mut words, mut config, mut data) = (Vec::new(), None, None);
        let mut generator = Generator::default();
        let mut generates = None;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(arg) = arg.to_str() else {
                return Err("a word of the command line is not UTF-8".to_owned());
            };
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg {
                "--help" | "-h" => {
                    return Ok(Args { command: Command::Help(HELP), config, data });
                }
                "--config" => config = Some(value()?.into()),
                "--data" => data = Some(value()?.into()),
                "--seed" => generator.seed = number(arg, &value()?)?,
                "--orders" => generator.orders = number(arg, &value()?)?,
                "--poison" => {
                    generator.poison = number(arg, &value()?)?;
                    if !(0.0..=1.0).contains(&generator.poison) {
                        return Err(
                            "--poison is out of range; accepted: a share from 0 to 1".into()
                        );
                    }
                }
                _ if arg.starts_with("--") => {
                    return Err(format!("unknown option {arg}; --help lists them"));
                }
                _ => words.push(arg.to_owned()),
            }
            if matches!(arg, "--seed" | "--orders" | "--poison") {
                generates = Some(arg.to_owned());
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let command = match words[..] {
            ["run"] => Command::Run,
            ["check"] => Command::Check,
            ["generate"] => Command::Generate(generator),
            ["demo"] => Command::Demo(generator),
            ["ask", method, path] => ask(method, path, ""),
            ["ask", method, path, body] => ask(method, path, body),
            _ => return Err("which command? --help lists them".to_owned()),
        };
        match (&command, generates) {
            (Command::Generate(_) | Command::Demo(_), _) | (_, None) => {}
            (_, Some(option)) => return Err(format!("{option} belongs to generate and demo")),
        }
        Ok(Args { command, config, data })
    }
}

fn ask(method: &str, path: &str, body: &str) -> Command {
    Command::Ask { method: method.to_owned(), path: path.to_owned(), body: body.to_owned() }
}

fn number<N: FromStr>(option: &str, value: &OsString) -> Result<N, String> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{option} takes a number, not {value:?}"))
}
