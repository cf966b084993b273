use std::time::Duration;

use reqwest_wecom::{Error, FetchRequest, FetchedToken, TokenSource, async_trait};

pub const TOKEN: &str = "kV1wQ9y8w0d2k3Jm5nB7v4cX1zL6hG9fD2sA8pO0iU3yT5rE7wQ1mN4bV6cX9zL2kJ5hG8fD1sA3pO6iU9yT2rE4wQ7mN0bV";

/// Gives the same token to all.
pub struct Fixed(pub String);

impl Default for Fixed {
    fn default() -> Self {
        Self(TOKEN.to_owned())
    }
}

#[async_trait]
impl TokenSource for Fixed {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        Ok(FetchedToken::new(
            self.0.as_str(),
            Duration::from_secs(7200),
        ))
    }
}
