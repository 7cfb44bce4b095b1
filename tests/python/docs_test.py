"""Examples of the documents: run as pasted, and what they print is what the pages show. Notebooks likewise."""
import contextlib
import io
import os
import pathlib
import re
import unittest

import material
import notebooks

docs = material.root / "docs"


class Pages(unittest.TestCase):
    def run_page(self, name):
        """Runs the page's python blocks in one namespace, from a folder that looks like the root of the repository. What one
        prints is the text, or the graph, that follows it."""
        folder = pathlib.Path("pages") / pathlib.Path(name).stem
        folder.mkdir(parents=True)
        (folder / "tools").symlink_to(material.root / "tools")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (docs / name).read_text(), re.DOTALL | re.MULTILINE)
        names, printed, checked = {}, "", 0
        shown = {"text", "mermaid"}
        before = os.getcwd()
        os.chdir(folder)
        try:
            for kind, text in blocks:
                if kind == "python":
                    self.assertEqual(printed, "", f"{name}: a block after what is printed")
                    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
                        exec(compile(text, name, "exec"), names)
                    printed = out.getvalue() if shown & {kind for kind, _ in blocks} else ""
                    checked += 1
                elif kind in shown:
                    self.assertEqual(printed, text, name)
                    printed = ""
        finally:
            os.chdir(before)
        self.assertGreater(checked, 0)
        return folder

    def test_the_page_of_the_package(self):
        self.run_page("python.md")

    def test_the_readme(self):
        self.run_page("../README.md")

    def test_the_gallery_is_drawn_by_its_lines(self):
        folder = self.run_page("gallery.md")
        shown = re.findall(r"\]\((pictures/gallery/[^)]*)\)", (docs / "gallery.md").read_text())
        self.assertEqual(sorted(shown), sorted(str(path.relative_to(docs)) for path in (docs / "pictures/gallery").iterdir()))
        for picture in shown:
            self.assertTrue((folder / "docs" / picture).exists(), picture)

    def test_links_lead_somewhere(self):
        def without_code(path):
            return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)

        def anchors(path):  # as GitHub names headings
            for heading in re.findall(r"^#+ (.*)$", without_code(path), re.MULTILINE):
                words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", heading))
                yield re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")

        folders = ("docs/**/*.md", "docs/**/*.ipynb", "tests/**/*.md", "tools/**/*.md", "*.md")
        pages = [path for folder in folders for path in sorted(material.root.glob(folder))]
        links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s:]+)\)", without_code(page))]
        self.assertGreater(len(links), 300)
        for page, link in links:
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            with self.subTest(page=str(page.relative_to(material.root)), link=link):
                self.assertTrue(target.exists())
                if anchor and target.suffix == ".md":
                    self.assertIn(anchor, list(anchors(target)))

    def test_notebooks_print_what_they_show(self):
        found = sorted((docs / "notebooks").glob("*.ipynb"))
        self.assertGreaterEqual(len(found), 2)
        for path in found:
            notebook, outputs = notebooks.execute(path)
            for number, (cell, (text, pictures)) in enumerate(zip(notebooks.code_cells(notebook), outputs), 1):
                with self.subTest(path.name, cell=number):
                    self.assertEqual(text, notebooks.stored_text(cell))
                    drawn = sum("image/png" in output.get("data", {}) for output in cell["outputs"])
                    self.assertEqual(len(pictures), drawn)
            self.assertLess(path.stat().st_size, 200_000)
