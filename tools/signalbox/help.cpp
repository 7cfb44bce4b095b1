#include "tools/signalbox/help.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>

#include "base/display_width.h"
#include "base/text.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

constexpr int left = 26;  // columns of names and values, before descriptions

// What one_of says of a value, "{a|b}"; empty: nothing.
std::string words_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t open = type.find('{');
  return open == std::string::npos || type.back() != '}' ? "" : type.substr(open + 1, type.size() - open - 2);
}

// "N", "X", "a|b", "FILE".
std::string value_name(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return "";
  const std::string words = words_of(option), type = option.get_type_name();
  const std::string base = type.substr(0, type.find_first_of(":{"));
  std::string name = base == "INT" || base == "UINT" ? "N" : base == "FLOAT" ? "X" : base.empty() ? "TEXT" : base;
  if (!words.empty()) name = words.size() <= 40 ? words : "NAME";
  if (option.get_delimiter() == ',') return name.find('|') != std::string::npos ? "NAME[,...]" : name + "[,...]";
  return option.get_items_expected_max() > 1 ? name + " ..." : name;
}

// "-o, --out".
std::string flag_names(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return joined(names);
}

std::string default_of(const CLI::Option& option) {
  std::string text = option.get_default_str();
  if (text.size() > 1 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  return text.find(' ') == std::string::npos ? text : in_quotes(text);
}

std::string description_of(const CLI::Option& option) {
  std::string text = option.get_description();
  // The words stand in front already.
  if (std::string words = words_of(option); !words.empty() && words.size() <= 40 && option.get_delimiter() != ',') {
    for (size_t at = 0; (at = words.find('|', at)) != std::string::npos; at += 3) words.replace(at, 1, " | ");
    if (text.starts_with(words)) {
      text.erase(0, words.size());
      if (text.starts_with(": ")) text.erase(0, 2);
      text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
    }
  }
  std::vector<std::string> more;
  if (option.get_required() && !option.get_positional()) more.push_back("required");
  for (const CLI::Option* other : option.get_needs()) more.push_back("needs " + other->get_name());
  for (const CLI::Option* other : option.get_excludes()) more.push_back("not beside " + other->get_name());
  if (const std::string value = default_of(option); !value.empty()) more.push_back("default: " + value);
  if (!more.empty()) text += (text.empty() ? "(" : " (") + joined(more, "; ") + ")";
  return text;
}

std::string entry(const std::string& name, const std::string& description, int width) {
  std::string out = "  " + name;
  const int at = static_cast<int>(display_width(out));
  if (description.empty()) return out + "\n";
  if (at + 2 > left)
    out += "\n" + std::string(left, ' ');
  else
    out += std::string(static_cast<size_t>(left - at), ' ');
  return out + wrapped(description, width, left, left) + "\n";
}

struct Section {
  std::string title;
  std::vector<const CLI::Option*> options;
};

void add_options(std::vector<Section>& sections, const CLI::App& app, const std::string& group) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional() && option->get_lnames().empty() && option->get_snames().empty()) continue;
    const std::string title = !group.empty() ? group : option->get_group();
    const bool help = option->get_name() == "--help" && !group.empty();  // a group without a name has one too
    if (title.empty() || help) continue;                                 // hidden
    auto found = std::find_if(sections.begin(), sections.end(), [&](const Section& one) { return one.title == title; });
    if (found == sections.end()) found = sections.insert(sections.end(), {title, {}});
    found->options.push_back(option);
  }
}

// "a directory", "  example": how far a line is indented, and where its second column begins.
size_t hang_of(const std::string& line) {
  const size_t text = line.find_first_not_of(' ');
  const size_t column = text == std::string::npos ? text : line.find("  ", text);
  const size_t second = column == std::string::npos ? column : line.find_first_not_of(' ', column);
  return second == std::string::npos || second > 30 ? text + 2 : second;
}

std::string footer_text(const std::string& footer, int width) {
  std::istringstream in(footer);
  std::string out, paragraph;
  bool examples = false;
  const auto flush = [&] {
    if (!paragraph.empty()) out += wrapped(paragraph, width) + "\n";
    paragraph.clear();
  };
  std::string kept;  // a line of shell that goes on
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("  ") && examples) {
      flush();
      std::string command = line.substr(line.find_first_not_of(' '));
      if (command.ends_with("\\")) {
        kept += command.substr(0, command.size() - 1);
        continue;
      }
      out += "  " + wrapped_command(kept + command, width - 2, 6) + "\n";
      kept.clear();
    } else if (line.starts_with("  ")) {
      flush();
      const size_t hang = hang_of(line);
      // Columns of the line's own beginning stay as they are.
      out += line.substr(0, hang) +
             wrapped(line.substr(std::min(hang, line.size())), width, static_cast<int>(hang), static_cast<int>(hang)) +
             "\n";
    } else {
      if (line.empty() || line.ends_with(":")) {
        flush();
        out += line + "\n";
      } else {
        paragraph += (paragraph.empty() ? "" : " ") + line;
      }
      examples = line == "Example:" || line == "Examples:" || (examples && line.empty());
    }
  }
  flush();
  return out;
}

}  // namespace

std::string help_text(const CLI::App& app, int width) {
  const CLI::App* parent = app.get_parent();
  std::string usage = "Usage: " + (parent ? parent->get_name() + " " : "") + app.get_name();
  std::vector<const CLI::Option*> positionals;
  std::vector<Section> sections;
  sections.push_back({"Options", {}});
  add_options(sections, app, "");
  std::vector<const CLI::App*> subcommands;
  for (const CLI::App* one : app.get_subcommands([](const CLI::App*) { return true; }))
    if (one->get_name().empty())
      add_options(sections, *one, "One of");
    else
      subcommands.push_back(one);
  for (const CLI::Option* option : app.get_options())
    if (option->get_positional()) positionals.push_back(option);

  if (!subcommands.empty()) usage += " SUBCOMMAND";
  for (const CLI::Option* option : positionals) {
    const std::string name = option->get_name(true) + (option->get_items_expected_max() > 1 ? " ..." : "");
    usage += option->get_required() ? " " + name : " [" + name + "]";
  }
  std::vector<std::string> alternatives;
  for (const Section& section : sections)
    for (const CLI::Option* option : section.options) {
      const std::string flag = option->get_name() + (value_name(*option).empty() ? "" : " " + value_name(*option));
      if (option->get_required()) usage += " " + flag;
      if (section.title == "One of") alternatives.push_back(flag);
    }
  if (!alternatives.empty()) usage += " (" + joined(alternatives, " | ") + ")";
  usage += " [OPTIONS]";
  std::string out = wrapped(usage, width, 7) + "\n\n";
  std::istringstream description(app.get_description());
  for (std::string line; std::getline(description, line);) out += wrapped(line, width) + "\n";

  if (!subcommands.empty()) {
    out += "\nSubcommands:\n";
    for (const CLI::App* one : subcommands) out += entry(one->get_name(), one->get_description(), width);
  }
  if (std::any_of(positionals.begin(), positionals.end(),
                  [](const auto* one) { return !one->get_description().empty(); })) {
    out += "\nArguments:\n";
    for (const CLI::Option* option : positionals) out += entry(option->get_name(true), description_of(*option), width);
  }
  for (const Section& section : sections) {
    if (section.options.empty()) continue;
    out += "\n" + section.title + ":\n";
    for (const CLI::Option* option : section.options) {
      const std::string value = value_name(*option);
      out += entry(flag_names(*option) + (value.empty() ? "" : " " + value), description_of(*option), width);
    }
  }
  if (!app.get_footer().empty()) out += "\n" + footer_text(app.get_footer(), width);
  return out;
}

}  // namespace signalbox::tools
