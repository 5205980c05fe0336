//! The process: command line, logs, metrics, probes, the graceful stop, exit codes. Nothing of the job is in here.
//!
//! | code | meaning | restart? |
//! |---|---|---|
//! | 0 | every event that was read is settled; faults are stored | as you like |
//! | 1 | it ended with an error: its source, a listener or a file failed for good | yes, after a look |
//! | 2 | the command line or the configuration cannot be used | no: mend it |
//! | 3 | events are left to the next life: the drain ran into its limit | yes |

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use orders_component::generate::Generator;
use orders_component::settings::Settings;
use orders_component::wiring;
use streambreaker::admin::{self, Listener};
use streambreaker::{BoxError, Processor, Report, RunError};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod args;

use args::{Args, Command};

/// The command line or the configuration cannot be used.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(mistake) => return unusable(mistake),
    };
    if let Command::Help(text) = args.command {
        println!("{text}");
        return ExitCode::SUCCESS;
    }
    // the image names its own, so that `orders ask` in a container finds the socket without being told
    let config = args.config.or_else(|| std::env::var_os("ORDERS_CONFIG").map(PathBuf::from));
    let mut settings = match config.as_deref().map(Settings::load).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(mistake) => {
            complain(&mistake);
            return ExitCode::from(UNUSABLE);
        }
    };
    if let Some(data) = args.data {
        settings.data = data;
    }
    let done = match args.command {
        Command::Help(_) => Ok(ExitCode::SUCCESS),
        Command::Generate(generator) => generate(generator, &settings),
        Command::Ask { method, path, body } => ask(&settings, &method, &path, &body),
        Command::Check => component(&settings, |processor| {
            println!("{}", processor.explain());
            Ok(ExitCode::SUCCESS)
        }),
        Command::Run => component(&settings, |processor| run(processor, &settings)),
        Command::Demo(generator) => {
            settings.follow = false;
            generate(generator, &settings)
                .and_then(|_| component(&settings, |processor| run(processor, &settings)))
        }
    };
    done.unwrap_or_else(|error| {
        complain(&*error);
        ExitCode::FAILURE
    })
}

/// Sets up logs, builds the component, and hands it on.
fn component(
    settings: &Settings,
    go: impl FnOnce(Processor) -> Result<ExitCode, BoxError>,
) -> Result<ExitCode, BoxError> {
    let filter: Targets = match settings.log.filter.parse() {
        Ok(filter) => filter,
        Err(error) => {
            let accepted = "a level, or targets with levels such as `warn,streambreaker=info`";
            return Ok(unusable(format!("log.filter: {error}; accepted: {accepted}")));
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.log.json {
        true => registry.with(lines.json()).init(),
        false => registry.with(lines).init(),
    }
    // a panic in a handler is a fault of its event, with its message in the fault event; the log is not the place for it
    streambreaker::hide_panic_messages();
    match wiring::component(settings) {
        Ok(processor) => go(processor),
        Err(mistake) => {
            complain(&mistake);
            Ok(ExitCode::from(UNUSABLE))
        }
    }
}

#[tokio::main]
async fn run(processor: Processor, settings: &Settings) -> Result<ExitCode, BoxError> {
    let recorder = admin::recorder()?;
    let mut serving = Vec::new();
    if let Some(address) = &settings.admin.listen {
        // the kubelet and Prometheus come from outside: they may look, and turn nothing
        let bind =
            Listener::bind(address).read_only().allow_any_address().metrics(recorder.clone());
        serving.push(bind.await?.spawn(processor.handle()));
    }
    #[cfg(unix)]
    if let Some(socket) = settings.socket() {
        serving
            .push(Listener::bind_unix(socket).metrics(recorder).await?.spawn(processor.handle()));
    }

    // SIGTERM or SIGINT drains, a second one ends the drain; probes answer until all is over
    let ended = processor.run(streambreaker::shutdown()).await;
    for serving in serving {
        serving.stop().await;
    }
    match ended {
        Ok(report) => Ok(tell(&report, ExitCode::from(report.exit_code()))),
        // it has drained all the same, and accounts for it; the cause says what to do
        Err(RunError::Ended { report, source: Some(cause), .. }) => {
            complain(&cause);
            Ok(tell(&report, ExitCode::FAILURE))
        }
        Err(error) => {
            complain(&error);
            Ok(error.report().map_or(ExitCode::FAILURE, |report| tell(report, ExitCode::FAILURE)))
        }
    }
}

fn tell(report: &Report, code: ExitCode) -> ExitCode {
    println!("{report}");
    code
}

/// Writes events where the component reads them, unless others are there.
fn generate(generator: Generator, settings: &Settings) -> Result<ExitCode, BoxError> {
    let path = settings.events();
    let lines = generator.lines(settings.rules());
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    match fs::read(&path) {
        Ok(found) if found == text.as_bytes() => {}
        Ok(_) => {
            let path = path.display();
            return Err(
                format!("{path} holds other events; name another directory by --data").into()
            );
        }
        Err(_) => {
            let written = fs::create_dir_all(&settings.data).and_then(|()| fs::write(&path, &text));
            written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
    }
    println!("{} events of {} orders in {}", lines.len(), generator.orders, path.display());
    Ok(ExitCode::SUCCESS)
}

/// Asks a component that runs, on its socket.
#[cfg(unix)]
fn ask(settings: &Settings, method: &str, path: &str, body: &str) -> Result<ExitCode, BoxError> {
    let Some(socket) = settings.socket() else {
        return Ok(unusable("admin.socket is not set; accepted: the path of a Unix socket"));
    };
    let answer = orders_component::ask::ask(&socket, method, path, body).map_err(|error| {
        format!("nobody answers on {}: {error}; does the component run?", socket.display())
    })?;
    println!("{}", answer.body);
    Ok(if answer.status < 300 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(not(unix))]
fn ask(_: &Settings, _: &str, _: &str, _: &str) -> Result<ExitCode, BoxError> {
    Err("there are no Unix sockets here; use admin.listen".into())
}

fn unusable(mistake: impl std::fmt::Display) -> ExitCode {
    eprintln!("orders: {mistake}");
    ExitCode::from(UNUSABLE)
}

/// Says on standard error what went wrong, with its causes.
fn complain(error: &(dyn Error + 'static)) {
    eprint!("orders: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}
