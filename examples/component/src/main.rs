//! The process: command line, logs, metrics, probes, the graceful stop, exit codes. Nothing of the job is in here.
//!
//! What an operator needs comes from `streambreaker_operator`: it is handed the function that builds the component, and where
//! lake, faults and listeners are.
//!
//! | code | meaning | restart? |
//! |---|---|---|
//! | 0 | done; every event that was read is settled, faults are stored | as you like |
//! | 1 | it ended with an error: its source, a listener or a file failed for good | yes, after a look |
//! | 2 | the command line or the configuration cannot be used | no: mend it |
//! | 3 | events are left to the next life: the drain ran into its limit | yes |
//! | 4 | of a command that asks something: the answer is no | |

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use orders_component::generate::Generator;
use orders_component::settings::Settings;
use orders_component::wiring;
use streambreaker::BoxError;
use streambreaker::admin::{self, Bind, Listener};
use streambreaker_operator::{Command, Exit, Operator, Task};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod args;

use args::{Line, Word};

fn main() -> ExitCode {
    let line: Line = streambreaker_operator::parse();
    // the image names its own, so that `orders status` in a container finds the socket without being told
    let config = line.config.or_else(|| std::env::var_os("ORDERS_CONFIG").map(PathBuf::from));
    let mut settings = match config.as_deref().map(Settings::load).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(mistake) => {
            complain(&mistake);
            return Exit::Unusable.into();
        }
    };
    if let Some(data) = line.data {
        settings.data = data;
    }
    settings.database = line.database.or(settings.database);
    let done = match line.word {
        Word::Operate(command) => operate(command, settings),
        Word::Store { once } => {
            settings.follow &= !once;
            store(&settings)
        }
        Word::Check => operate(Command::plan(), settings),
        Word::Generate(made) => generate(made.generator(), &settings),
        Word::Demo(made) => {
            settings.follow = false;
            generate(made.generator(), &settings).and_then(|_| operate(Command::run(), settings))
        }
    };
    done.unwrap_or_else(|error| {
        complain(&*error);
        ExitCode::FAILURE
    })
}

/// Sets up logs: all that is configured of a run, else what went wrong and who did what.
fn logs(settings: &Settings, task: Option<Task>) -> Result<(), ExitCode> {
    let filter = match task {
        Some(Task::Run) => settings.log.filter.as_str(),
        // what the lake could not read is told by the commands themselves
        _ => "warn,streambreaker::audit=info,streambreaker::lake=error",
    };
    let filter: Targets = filter.parse().map_err(|error| {
        let accepted = "a level, or targets with levels such as `warn,streambreaker=info`";
        unusable(format!("log.filter: {error}; accepted: {accepted}"))
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.log.json {
        true => registry.with(lines.json()).init(),
        false => registry.with(lines).init(),
    }
    // a panic in a handler is a fault of its event, with its message in the fault event; the log is not the place for it
    streambreaker::hide_panic_messages();
    Ok(())
}

/// Whatever every component can be told.
#[tokio::main]
async fn operate(command: Command, settings: Settings) -> Result<ExitCode, BoxError> {
    if let Err(code) = logs(&settings, command.task()) {
        return Ok(code);
    }
    let listening = settings.clone();
    let mut operator = {
        let settings = settings.clone();
        Operator::new(wiring::NAME, async move |_| Ok(wiring::component(&settings)?))
    }
    .lake_in(settings.lake())
    .faults_in(settings.faults())
    .stream(wiring::STREAM)
    .listeners(move || listeners(&listening));
    if let Some(socket) = settings.socket() {
        operator = operator.admin(&format!("unix:{}", socket.display()));
    }
    Ok(operator.execute(command).await.into())
}

/// The listeners of a run.
fn listeners(settings: &Settings) -> Result<Vec<Bind>, BoxError> {
    let recorder = admin::recorder()?;
    let mut listeners = Vec::new();
    if let Some(address) = &settings.admin.listen {
        // the kubelet and Prometheus come from outside: they may look, and turn nothing
        let bind = Listener::bind(address).read_only().allow_any_address();
        listeners.push(bind.metrics(recorder.clone()));
    }
    #[cfg(unix)]
    if let Some(socket) = settings.socket() {
        listeners.push(Listener::bind_unix(socket).metrics(recorder));
    }
    Ok(listeners)
}

/// Stores the events in the lake.
#[tokio::main]
async fn store(settings: &Settings) -> Result<ExitCode, BoxError> {
    if let Err(code) = logs(settings, Some(Task::Run)) {
        return Ok(code);
    }
    let writer = match wiring::lake_writer(settings) {
        Ok(writer) => writer,
        Err(mistake) => {
            complain(&mistake);
            return Ok(Exit::Unusable.into());
        }
    };
    let report = writer.run(streambreaker::shutdown()).await?;
    println!("{report}");
    Ok(ExitCode::from(report.exit_code()))
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

fn unusable(mistake: impl std::fmt::Display) -> ExitCode {
    eprintln!("orders: {mistake}");
    Exit::Unusable.into()
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
