#include "tools/signalbox/arguments.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "base/near_names.h"
#include "base/text.h"
#include "tools/signalbox/help.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

constexpr int64_t any_whole = std::numeric_limits<int64_t>::max();

const CLI::Validator date(
    [](std::string& text) {
      int year, month, day, used = 0;
      const bool good = std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &used) == 3 &&
                        used == static_cast<int>(text.size()) && month >= 1 && month <= 12 && day >= 1 && day <= 31;
      return good ? std::string() : "expected a date YYYY-MM-DD, found " + text;
    },
    "", "date");

// What CLI11 would read in base 8: 010 as eight.
bool is_octal(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of("+-"), text.size()));
  return text.size() > 1 && text[0] == '0';
}

// " from 1 to 4096"; nothing of a bound that is none.
template <class T>
std::string range_text(T low, T high, const std::string& low_text, const std::string& high_text) {
  const bool above = low > std::numeric_limits<T>::lowest(), below = high < std::numeric_limits<T>::max();
  return above && below ? " from " + low_text + " to " + high_text
         : above        ? " of at least " + low_text
         : below        ? " of at most " + high_text
                        : "";
}

// The app that the command line has chosen: a subcommand, or the command itself.
const CLI::App& chosen(const CLI::App& app) {
  const std::vector<CLI::App*> parsed = app.get_subcommands();
  return parsed.empty() ? app : chosen(*parsed.back());
}

// Options of a command, and of its groups without a name.
std::vector<const CLI::Option*> options_of(const CLI::App& app) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : app.get_options()) options.push_back(option);
  for (const CLI::App* group : app.get_subcommands([](const CLI::App* one) { return one->get_name().empty(); }))
    for (const CLI::Option* option : options_of(*group)) options.push_back(option);
  return options;
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : options_of(app)) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
  }
  return flags;
}

std::vector<std::string> subcommands_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* one : app.get_subcommands([](const CLI::App* a) { return !a->get_name().empty(); }))
    names.push_back(one->get_name());
  return names;
}

// "signalbox data pairs".
std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent ? full_name(*parent) + " " + app.get_name() : app.get_name();
}

bool looks_like_flag(const std::string& word) { return word.size() > 1 && word[0] == '-' && !is_ascii_digit(word[1]); }

// What a command needs and did not get: flags and positionals that are required.
std::vector<std::string> missing(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : options_of(app))
    if (option->get_required() && option->count() == 0) names.push_back(option->get_name());
  return names;
}

std::string with_and(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) out += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  return out;
}

// Of several faults, the one that explains most: a flag that does not exist usually is a misspelt one of those that are
// then missing.
[[noreturn]] void refuse(const CLI::App& app, const CLI::ParseError& error, const std::string& for_words) {
  const CLI::App& command = chosen(app);
  const std::string where = full_name(command);
  const std::vector<std::string> left = app.remaining(true);
  const auto flag = std::find_if(left.begin(), left.end(), looks_like_flag);
  if (flag != left.end()) {
    const std::string name = flag->substr(0, flag->find('='));
    const std::vector<std::string> near = near_names(name, flags_of(command));
    throw UsageError(where, "unknown flag " + name + " (" +
                                (near.empty() ? where + " --help lists them" : "nearest: " + joined(near)) + ")");
  }
  const std::vector<std::string> subcommands = subcommands_of(command);
  if (!subcommands.empty())
    throw UsageError(where, left.empty() ? "expected one of " + joined(subcommands) + ", found none"
                                         : wrong_name("a subcommand", left.front(), subcommands));
  const std::vector<std::string> needed = missing(command);
  if (!left.empty()) {
    std::string hint = for_words;
    if (hint.empty() && !needed.empty()) hint = with_and(needed) + (needed.size() == 1 ? " is" : " are") + " missing";
    throw UsageError(
        where, "expected no further word, found " + in_quotes(left.front()) + (hint.empty() ? "" : " (" + hint + ")"));
  }
  if (dynamic_cast<const CLI::RequiredError*>(&error) && !needed.empty())
    throw UsageError(where, "expected " + with_and(needed) + ", found " + (needed.size() > 1 ? "not all" : "none") +
                                " (signalbox help " + where.substr(where.find(' ') + 1) + ")");
  throw UsageError(where, error.what());
}

}  // namespace

const CLI::Validator& date_validator() { return date; }

CLI::Validator in_range(int low, int high) { return in_range(int64_t{low}, int64_t{high}); }

CLI::Validator in_range(int64_t low, int64_t high) {
  const std::string range = range_text(low, high, std::to_string(low), std::to_string(high));
  return CLI::Validator(
      [=](std::string& text) {
        int64_t value = 0;
        const char* begin = text.data() + (text.starts_with("+") ? 1 : 0);
        const auto [end, failed] = std::from_chars(begin, text.data() + text.size(), value);
        if (is_octal(text) || failed != std::errc() || end != text.data() + text.size() || value < low || value > high)
          return "expected a whole number" + range + ", found " + in_quotes(text);
        return std::string();
      },
      "");
}

CLI::Validator in_range(double low, double high) {
  const std::string range = range_text(low, high, short_number(low), short_number(high));
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const char* begin = text.data() + (text.starts_with("+") ? 1 : 0);
        const auto [end, failed] = std::from_chars(begin, text.data() + text.size(), value);
        if (failed != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high))
          return "expected a number" + range + ", found " + in_quotes(text);
        return std::string();
      },
      "");
}

CLI::Validator at_least(uint64_t low) {
  return CLI::Validator(
      [=](std::string& text) {
        uint64_t value = 0;
        const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (is_octal(text) || failed != std::errc() || end != text.data() + text.size() || value < low)
          return "expected a whole number of at least " + std::to_string(low) + ", found " + in_quotes(text);
        return std::string();
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> words) {
  const std::string description = "{" + joined(words, "|") + "}";
  return CLI::Validator(
      [words = std::move(words)](std::string& text) {
        if (std::find(words.begin(), words.end(), text) != words.end()) return std::string();
        const std::vector<std::string> near = near_names(text, words);
        return "expected one of " + joined(words) + (near.empty() ? "" : " (nearest: " + joined(near) + ")") +
               ", found " + in_quotes(text);
      },
      description);
}

int parse_arguments(CLI::App& app, int argc, char** argv, const std::string& for_words) {
  // A number without a range of its own: its type is the check.
  std::vector<CLI::App*> apps = {&app};
  for (size_t i = 0; i < apps.size(); ++i) {
    for (CLI::Option* option : apps[i]->get_options()) {
      const std::string type = option->get_type_name();
      if (type == "INT") option->check(in_range(-any_whole - 1, any_whole));
      if (type == "UINT") option->check(at_least(0));
      if (type == "FLOAT")
        option->check(in_range(-std::numeric_limits<double>::max(), std::numeric_limits<double>::max()));
    }
    for (CLI::App* one : apps[i]->get_subcommands([](const CLI::App*) { return true; })) apps.push_back(one);
  }
  // "--stop=" would take the next argument, a flag perhaps, for its value.
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--") && argument.find('=') == argument.size() - 1 && argument.size() > 3)
      throw UsageError(full_name(app), std::string(argument.substr(0, argument.size() - 1)) +
                                           ": expected a value behind =, found none");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    const CLI::App& command = chosen(app);
    if (!subcommands_of(command).empty() && !app.remaining(true).empty()) refuse(app, help, for_words);
    const int width = terminal_width(STDOUT_FILENO);
    write_stdout(help_text(command, width == 0 ? usual_width : std::clamp(width, 40, 100)));
    return 0;
  } catch (const CLI::ParseError& error) {
    refuse(app, error, for_words);
  }
  // An unset shell variable gives an empty value; taking it for "not given" would drop an edit or a trace silently.
  for (const CLI::App* one : apps)
    for (const CLI::Option* option : one->get_options()) {
      if (option->get_name() == "--prompt" || option->get_name() == "--chat") continue;
      if (option->get_items_expected_min() == 0) continue;  // may come without a value
      for (const std::string& value : option->results())
        if (value.empty())
          throw UsageError(full_name(chosen(app)), option->get_name() + ": expected a value, found an empty one");
    }
  return -1;
}

}  // namespace signalbox::tools
