//! An address in the words of other programs: a URL, and libpq's variables.

use ::url::form_urlencoded;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::Host;

use super::Address;

impl Address {
    /// As a URL, with the password. How strict TLS is, is not in it.
    pub fn url(&self) -> SecretString {
        let quote =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
        let config = &self.config;
        let password = config.get_password().map(|password| format!(":{}", quote(&String::from_utf8_lossy(password))));
        let password = password.unwrap_or_default();
        let user = config.get_user().map(|user| format!("{}{password}@", quote(user))).unwrap_or_default();
        let hosts: Vec<_> = self.hosts().into_iter().map(|(host, port)| format!("{}:{port}", quote(&host))).collect();
        let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
        format!("postgres://{user}{}/{}", hosts.join(","), quote(name)).into()
    }

    /// As variables for psql and other programs on libpq. `given` is the URL that the address was read from.
    pub fn libpq_variables(&self, given: &SecretString) -> Vec<(&'static str, String)> {
        let config = &self.config;
        let (hosts, ports): (Vec<_>, Vec<_>) =
            self.hosts().into_iter().map(|(host, port)| (host, port.to_string())).unzip();
        let mut variables = vec![("PGHOST", hosts.join(",")), ("PGPORT", ports.join(","))];
        variables.extend(config.get_user().map(|user| ("PGUSER", user.to_owned())));
        variables.extend(config.get_dbname().map(|name| ("PGDATABASE", name.to_owned())));
        variables.extend(
            config.get_password().map(|password| ("PGPASSWORD", String::from_utf8_lossy(password).into_owned())),
        );
        let query = given.expose_secret().split_once('?').map(|(_, query)| query).unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "sslmode" => variables.push(("PGSSLMODE", value.into_owned())),
                "sslrootcert" => variables.push(("PGSSLROOTCERT", value.into_owned())),
                _ => {}
            }
        }
        variables
    }

    /// Hosts, or socket folders, each with its port.
    fn hosts(&self) -> Vec<(String, u16)> {
        let ports = self.config.get_ports();
        let name = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        };
        let hosts = self.config.get_hosts().iter().enumerate();
        hosts.map(|(at, host)| (name(host), ports.get(at).or(ports.first()).copied().unwrap_or(5432))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_leads_to_the_same_place() {
        for given in
            ["postgres://ada:ge%40h%2Feim@db.example.com:6432/my%20db?sslmode=disable", "postgres://ada@%2Frun%2Fpg/x"]
        {
            let address = Address::parse(given).expect("address");
            let again = Address::parse(address.url().expose_secret()).expect("address");
            assert_eq!(again.config.get_hosts(), address.config.get_hosts(), "{given}");
            assert_eq!(again.config.get_password(), address.config.get_password(), "{given}");
            assert_eq!(again.config.get_dbname(), address.config.get_dbname(), "{given}");
        }
        let given = "postgres://ada:ge%40heim@db.example.com:6432/x?sslmode=verify-full&sslrootcert=%2Fca.pem";
        let variables = Address::parse("postgres://ada:ge%40heim@db.example.com:6432/x")
            .expect("address")
            .libpq_variables(&given.into());
        let wanted = [
            ("PGHOST", "db.example.com"),
            ("PGPORT", "6432"),
            ("PGUSER", "ada"),
            ("PGDATABASE", "x"),
            ("PGPASSWORD", "ge@heim"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca.pem"),
        ];
        assert_eq!(variables, wanted.map(|(name, value)| (name, value.to_owned())));
    }
}
