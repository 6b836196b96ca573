"""The two apps that Flower loads, by the names in ``assets/deploy/operator/app/pyproject.toml``."""

from fedrouter.engines.flower.client_app import make_client_app
from fedrouter.engines.flower.server_app import make_server_app

client = make_client_app()
server = make_server_app()
