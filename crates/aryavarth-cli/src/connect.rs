//! The way from the command line to a server: address, login, database.

use aryavarth_client::{ClientError, RedisClient, RedisOptions, Value};

use crate::args::To;
use crate::output::{Failure, has_host};
use crate::password;

/// Connects over the Redis protocol.
pub(crate) fn connect(to: &To, database: u32) -> Result<RedisClient, Failure> {
    has_host(&to.addr)?;
    let password = password_of(to)?;
    if to.user.is_some() && password.is_none() {
        return Err(Failure::Other(format!("--user needs a password: {HOW_TO_SAY_IT}")));
    }
    let user = to.user.clone();
    let options = RedisOptions { user, password, database, ..RedisOptions::default() };
    RedisClient::connect_with(to.addr.as_str(), &options).map_err(explained)
}

/// The password to log in with, if there is one.
fn password_of(to: &To) -> Result<Option<Vec<u8>>, Failure> {
    password::find(to.password_file.as_deref(), false)
}

/// The server's refusal of a command, with the limit if an argument was beyond it.
pub(crate) fn refused(to: &To, text: &str) -> String {
    if text != TOO_LARGE {
        return text.to_owned();
    }
    let limit = value_bytes_max(to).map_or(String::new(), |limit| format!(", here {limit} bytes"));
    format!("a value is at most --value-max of the server{limit}; restart it with a larger one")
}

/// The largest value that the server takes; it closed the connection on which it refused a larger one.
fn value_bytes_max(to: &To) -> Option<String> {
    let reply = connect(to, 0).ok()?.command(&["CONFIG", "GET", "proto-max-bulk-len"]).ok()?;
    reply
        .into_array()?
        .pop()
        .and_then(Value::into_bytes)
        .and_then(|text| String::from_utf8(text).ok())
}

/// The last words of a server to a client with an argument beyond its limit.
const TOO_LARGE: &str = "ERR Protocol error: invalid bulk length";
const HOW_TO_SAY_IT: &str = "name its file with --password-file, or set ARYAVARTH_PASSWORD";

fn explained(error: ClientError) -> Failure {
    match error {
        ClientError::Server(text) if text.starts_with("NOAUTH") => Failure::Other(format!(
            "the server asks for a password: {HOW_TO_SAY_IT}; nothing was changed"
        )),
        ClientError::Server(text) if text.starts_with("WRONGPASS") => {
            Failure::Other(format!("the server refused the login: {text}; nothing was changed"))
        }
        error => error.into(),
    }
}
