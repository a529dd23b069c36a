import pandas as pd
import pytest
import synthetic


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A made-up results/<profile> folder of two seeds; read only."""
    return synthetic.write_results(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def points(results) -> pd.DataFrame:
    return synthetic.read_points(results)
