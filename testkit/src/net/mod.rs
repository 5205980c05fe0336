//! Networks that fail, for tests with a real server.

mod proxy;

pub use self::proxy::Proxy;
