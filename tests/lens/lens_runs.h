// Runs of lens and vocabulary on the small models of tests/goldens.
#pragma once
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "base/csv.h"
#include "tests/support.h"

namespace signalbox::test {

// `signalbox COMMAND MODEL --input .. --out .. FLAGS`, quiet. Of the golden's two records, or of its first alone.
class LensRun {
 public:
  LensRun(const std::string& command, const std::string& family, const std::string& flags, bool first_alone = false) {
    const std::filesystem::path golden = goldens_dir() / family;
    const std::string records = read_file(golden / "records.jsonl");
    write_file(dir_ / "records.jsonl", first_alone ? records.substr(0, records.find('\n') + 1) : records);
    ran_ = run_command(binary() + " " + command + " " + (golden / "model").string() + " --input " +
                       (dir_ / "records.jsonl").string() + " --quiet --threads 1 --out " + (dir_ / "out").string() +
                       " " + flags);
    CAPTURE(ran_.err);
    REQUIRE(ran_.code == 0);
  }
  const Ran& ran() const { return ran_; }
  std::string file(const std::string& name) const { return read_file(dir_ / "out" / name); }
  CsvTable table(const std::string& name) const { return CsvTable::parse(file(name), name); }

 private:
  TemporaryDirectory dir_;
  Ran ran_;
};

}  // namespace signalbox::test
