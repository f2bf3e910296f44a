//! Where failures go that no call can return: to the page.

use js_sys::Function;
use std::cell::RefCell;
use std::sync::Arc;
use wasm_bindgen::JsValue;

thread_local! {
    static REPORT: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Sends them to a function of the page from now on, panics among them.
pub fn report_to(report: Function) {
    REPORT.set(Some(report));
    std::panic::set_hook(Box::new(|info| tell(&info.to_string())));
}

/// Reports what goes wrong with a device. It is the page's: macheps sets no callbacks on it.
pub fn watch(device: &wgpu::Device) {
    device.on_uncaptured_error(Arc::new(|error: wgpu::Error| tell(&error.to_string())));
    device.set_device_lost_callback(|reason, message| {
        // The page goes: nobody is there to read it.
        if reason != wgpu::DeviceLostReason::Destroyed {
            tell(&format!("the device was lost: {message}"));
        }
    });
}

fn tell(message: &str) {
    REPORT.with_borrow(|report| {
        if let Some(report) = report {
            // A page that fails in showing a failure has nothing left to show it with.
            let _ = report.call1(&JsValue::NULL, &message.into());
        }
    });
}
