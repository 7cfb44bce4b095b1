"""The wheel with the binary (pyproject.toml at the root) says of itself what the package without it says, which is installed here."""
import importlib.util
import re
import tomllib
import unittest
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Metadata(unittest.TestCase):
    def test_one_description_for_both_wheels(self):
        spec = importlib.util.spec_from_file_location("wheel_metadata", ROOT / "tools/python/wheel_metadata.py")
        provider = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(provider)
        whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
        fields = provider.dynamic_metadata({}, whole["project"])
        self.assertEqual(sorted(whole["project"]["dynamic"]), sorted(fields))

        pure = metadata.metadata("signalbox")
        self.assertEqual(whole["project"]["name"], pure["Name"])
        self.assertEqual([fields["version"], fields["description"], fields["requires-python"]], [pure["Version"], pure["Summary"], pure["Requires-Python"]])
        extras = [f"{need}; extra == '{extra}'" for extra, needs in fields["optional-dependencies"].items() for need in needs]
        plain = lambda needs: sorted(re.sub(r"[\s'\"]", "", need) for need in needs)
        self.assertEqual(plain(fields["dependencies"] + extras), plain(pure.get_all("Requires-Dist")))
        self.assertEqual(fields["readme"]["text"], (ROOT / "tools/python/README.md").read_text())

    def test_the_files_that_it_names_are_there(self):
        whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
        for file in whole["project"]["license-files"]:
            self.assertTrue((ROOT / file).is_file(), file)
        for package in whole["tool"]["scikit-build"]["wheel"]["packages"]:
            self.assertTrue((ROOT / package / "__init__.py").is_file(), package)
        provider = whole["tool"]["dynamic-metadata"][0]["provider"]
        self.assertTrue((ROOT / provider["path"] / f"{provider['module']}.py").is_file())


if __name__ == "__main__":
    unittest.main()
