//! What is deployed fits what is built: alerts know the metrics, links lead somewhere, the grace is longer than the drain.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use orders_component::settings::Settings;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !name(c)).filter(|word| word.starts_with("streambreaker_")).collect()
}

/// As Markdown's headings are linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_metric_that_an_alert_asks_for_is_documented() {
    let documents = read("../../docs/metrics.md");
    let known: BTreeSet<_> =
        documents.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for file in ["deploy/alerts.yaml", "deploy/alerts_test.yaml"] {
        let text = read(file);
        let asked = metrics(&text);
        assert!(asked.len() >= 9, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    // and what the runbook names; its patterns may end in the middle of a word
    let operating = read("../../docs/operating.md");
    for name in metrics(&operating) {
        let found = known.iter().any(|known| known.starts_with(name));
        assert!(found || name == "streambreaker_", "the runbook names {name}");
    }
    assert_eq!(
        metrics("a streambreaker_x_total{} > streambreaker_y"),
        ["streambreaker_x_total", "streambreaker_y"].into()
    );
}

#[test]
fn every_alert_has_a_test_and_a_chapter_of_the_runbook() {
    let (alerts, tests) = (read("deploy/alerts.yaml"), read("deploy/alerts_test.yaml"));
    let operating = read("../../docs/operating.md");
    let chapters: BTreeSet<_> = operating
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect();
    let values = |key: &str| -> Vec<String> {
        let after = |line: &str| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned());
        alerts.lines().filter_map(after).collect()
    };
    let (names, links) = (values("- alert:"), values("runbook:"));
    assert_eq!(names.len(), links.len());
    for link in links {
        let chapter = link.strip_prefix("docs/operating.md#").unwrap();
        assert!(chapters.contains(chapter), "{link}: there are {chapters:?}");
    }
    for name in names {
        let fires = tests.contains(&format!("- alertname: {name}\n"));
        let silent = tests.contains(&format!("alertname: {name}, eval_time"));
        assert!(fires && silent, "{name} is not tested both ways");
    }
}

/// The value behind `key:` in YAML that is written a key a line.
fn value<'a>(yaml: &'a str, key: &str) -> &'a str {
    let line = yaml.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key}")).split('#').next().unwrap().trim()
}

#[test]
fn the_deployed_configuration_is_accepted_and_its_drain_is_shorter_than_the_grace() {
    let yaml = read("deploy/deployment.yaml");
    let config: Vec<&str> = yaml
        .lines()
        .skip_while(|line| line.trim() != "config.toml: |")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(str::trim)
        .collect();
    let settings = Settings::parse("deployment.yaml", &config.join("\n")).unwrap();
    let drain = settings.engine.processor.drain.unwrap().get().as_secs();
    let grace: u64 = value(&yaml, "terminationGracePeriodSeconds").parse().unwrap();
    assert!(drain + 5 <= grace, "a drain of {drain} s needs more than a grace of {grace} s");
    // probes come from outside of the pod's loopback; switches do not
    let port = settings.admin.listen.unwrap();
    assert_eq!(port, "0.0.0.0:9464");
    assert!(yaml.contains("containerPort: 9464") && yaml.contains("prometheus.io/port: \"9464\""));
    assert!(yaml.contains(&format!("mountPath: {}", settings.data.display())));
    let socket = settings.admin.socket.unwrap();
    assert!(yaml.contains(&format!("mountPath: {} }}", socket.parent().unwrap().display())));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(yaml.contains(probe), "{probe}");
    }
}

#[test]
fn image_and_deployment_agree() {
    let (docker, yaml) = (read("Dockerfile"), read("deploy/deployment.yaml"));
    let said = |word: &str| -> Vec<&str> {
        docker.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
    };
    let (user, group) = said("USER")[0].split_once(':').unwrap();
    assert_ne!(user, "0");
    assert_eq!((value(&yaml, "runAsUser"), value(&yaml, "fsGroup")), (user, group));
    assert!(yaml.contains("runAsNonRoot: true") && yaml.contains("readOnlyRootFilesystem: true"));
    assert!(yaml.contains(&format!("containerPort: {}", said("EXPOSE")[0])));
    assert_eq!(said("ENTRYPOINT"), [r#"["orders"]"#]);
    // what the Deployment passes is what the image runs by itself, with the configuration that is mounted
    let args = value(&yaml, "args").trim_matches(['[', ']']).replace(", ", "\", \"");
    assert_eq!(said("CMD"), [format!("[\"{args}\"]")]);
    let config = said("ENV").into_iter().find_map(|env| env.strip_prefix("ORDERS_CONFIG="));
    let (folder, _) = config.unwrap().rsplit_once('/').unwrap();
    assert!(yaml.contains(&format!("name: config, mountPath: {folder},")), "{folder}");
    // what it writes is a volume there, and its own here
    for place in ["/var/lib/orders", "/run/orders"] {
        assert!(yaml.contains(&format!("mountPath: {place} }}")), "{place}");
        assert!(docker.contains(&format!("--chown={user}:{group} /empty {place}")), "{place}");
    }
    let (_, version) = value(&yaml, "image").rsplit_once(':').unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    // the last stage has no shell and no libraries: the program must need none
    assert!(docker.contains("FROM scratch") && docker.contains("+crt-static"));
}
