//! The adapters that tests run on: all that this machine has.

/// A device under test.
#[allow(dead_code, reason = "not every test file uses its device")]
pub struct Host {
    pub name: String,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

fn short_name(info: &wgpu::AdapterInfo) -> String {
    let name = info.name.to_lowercase();
    let known = ["llvmpipe", "swiftshader"]
        .into_iter()
        .find(|known| name.contains(known));
    known.map_or(info.name.clone(), str::to_string)
}

/// A device of its own on every adapter. `REQUIRE_ADAPTERS=llvmpipe,swiftshader` makes a missing one a failure; GL is none of this
/// package's backends.
pub fn hosts(test: &str) -> Vec<Host> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let hosts: Vec<Host> = adapters
        .iter()
        .map(|adapter| {
            let (device, queue) = pollster::block_on(macheps_fluid::open_device(adapter)).expect("opens");
            Host {
                name: short_name(&adapter.get_info()),
                device,
                queue,
            }
        })
        .collect();
    let required = std::env::var("REQUIRE_ADAPTERS").unwrap_or_default();
    for want in required.split(',').filter(|want| !want.is_empty() && *want != "gl") {
        assert!(
            hosts.iter().any(|host| host.name == want),
            "REQUIRE_ADAPTERS names {want}, which is not here"
        );
    }
    if hosts.is_empty() {
        say(&format!("SKIPPED: {test}: no adapter on this machine"));
    }
    hosts
}

/// Says something past the test runner's capture of what passing tests print.
pub fn say(line: &str) {
    let line = format!("\n{line}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("a standard error stream");
}
