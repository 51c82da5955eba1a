//! The way from the command line to a server: address, login, database.

use aryavarth_client::{ClientError, RedisClient, RedisOptions};

use crate::args::To;
use crate::output::Failure;
use crate::password;

/// Connects over the Redis protocol.
pub(crate) fn connect(to: &To, database: u32) -> Result<RedisClient, Failure> {
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
