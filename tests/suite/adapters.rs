//! Every adapter that this machine has, each opened once and shared by all tests.
//!
//! `REQUIRE_ADAPTERS=llvmpipe,swiftshader,gl` makes a missing one a failure; without it tests say SKIPPED.

use macheps::{Context, ContextOptions, DeviceKind, DeviceSelector};
use std::sync::OnceLock;

/// An adapter under test.
pub struct Adapter {
    /// Short name: `llvmpipe`, `swiftshader`, `gl`, or the adapter's own.
    pub name: String,
    pub context: Context,
}

impl Adapter {
    /// Whether it is the driver of this short name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    pub fn gpu(&self) -> &macheps::Gpu {
        self.context.gpu().expect("adapters are GPUs")
    }
}

/// The name that tests know an adapter by.
pub fn short_name(info: &macheps::DeviceInfo) -> String {
    let name = info.name.to_lowercase();
    if info.backend == "gl" {
        "gl".into()
    } else if name.contains("llvmpipe") {
        "llvmpipe".into()
    } else if name.contains("swiftshader") {
        "swiftshader".into()
    } else {
        info.name.clone()
    }
}

fn open_all() -> Vec<Adapter> {
    let only = std::env::var("MACHEPS_TEST_ADAPTER").ok();
    let mut found = Vec::new();
    for info in macheps::devices().into_iter().filter(|d| d.kind != DeviceKind::Cpu) {
        let name = short_name(&info);
        if only.as_ref().is_some_and(|o| *o != name) {
            continue;
        }
        let options = ContextOptions {
            device: DeviceSelector::Index(info.index),
            ..Default::default()
        };
        let context = Context::with_options(options).unwrap_or_else(|e| panic!("{name} does not open: {e}"));
        say(&format!(
            "adapter: {name} = {} [{}], subgroups {:?}",
            info.label(),
            info.driver,
            info.subgroup_sizes
        ));
        found.push(Adapter { name, context });
    }
    let required = std::env::var("REQUIRE_ADAPTERS").unwrap_or_default();
    for want in required.split(',').filter(|s| !s.is_empty()) {
        assert!(
            found.iter().any(|a| a.is(want)),
            "REQUIRE_ADAPTERS names {want}, which is not here"
        );
    }
    found
}

/// Says something on a line of its own, past the test runner's capture of what passing tests print.
pub fn say(line: &str) {
    let line = format!("\n{line}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("a standard error stream");
}

/// Says that a test, or a part of it, is skipped.
pub fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED: {test}: {why}"));
}

/// All adapters; prints SKIPPED once a test if there are none.
pub fn all(test: &str) -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    let adapters = ADAPTERS.get_or_init(open_all);
    if adapters.is_empty() {
        skipped(test, "no adapter on this machine");
    }
    adapters
}
