// The grammar of statements.
#include "loaders/template/parser.h"

#include <algorithm>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::data: return "template text";
    case TokenType::variable_begin: return "'{{'";
    case TokenType::variable_end: return "'}}'";
    case TokenType::block_begin: return "'{%'";
    case TokenType::block_end: return "'%}'";
    case TokenType::end: return "the end of the template";
    case TokenType::string: return "a string";
    default: return "'" + shorten(token.text) + "'";
  }
}

}  // namespace

Template parse(std::string_view source) {
  Template parsed = Parser(tokenize(source)).run();
  check_names(parsed);
  return parsed;
}

void Parser::fail(const std::string& message) const { throw SyntaxFailure{current().line, message}; }
void Parser::fail_unexpected() const { fail("unexpected " + describe(current())); }

bool Parser::skip_op(std::string_view op) {
  if (!is_op(op)) return false;
  next();
  return true;
}

bool Parser::skip_name(std::string_view name) {
  if (!is_name(name)) return false;
  next();
  return true;
}

void Parser::expect_op(std::string_view op) {
  if (!skip_op(op)) fail("expected '" + std::string(op) + "', found " + describe(current()));
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) fail("expected '" + std::string(name) + "', found " + describe(current()));
}

std::string Parser::expect_any_name() {
  if (current().type != TokenType::name) fail("expected a name, found " + describe(current()));
  return next().text;
}

void Parser::expect(TokenType type) {
  if (current().type != type) fail("expected " + describe({type, 0, "", Value()}) + ", found " + describe(current()));
  next();
}

int Parser::intern(const std::string& name) {
  const auto [at, is_new] = ids_.try_emplace(name, static_cast<int>(result_.names.size()));
  if (is_new) {
    if (ids_.size() > 1000) fail("more than 1000 names");
    result_.names.push_back(name);
  }
  return at->second;
}

void Parser::mention(const std::string& name, bool stored) {
  for (Mentions& m : macros_) {
    const auto note = [&](bool& read, bool& written) {
      if (stored)
        written = true;
      else if (!written)
        read = true;
    };
    if (name == "caller") note(m.caller, m.caller_done);
    if (name == "kwargs") note(m.kwargs, m.kwargs_done);
    if (name == "varargs") note(m.varargs, m.varargs_done);
  }
}

StmtPtr Parser::make(StmtKind kind, int line) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = line;
  return stmt;
}

Template Parser::run() {
  result_.body = parse_body({});
  return std::move(result_);
}

Body Parser::parse_body(std::initializer_list<std::string_view> ends) {
  const Level level(*this);
  Body body;
  const auto output = [&](int line) -> std::vector<ExprPtr>& {
    if (body.empty() || body.back()->kind != StmtKind::output) body.push_back(make(StmtKind::output, line));
    return body.back()->exprs;
  };
  while (true) {
    const Token& token = current();
    switch (token.type) {
      case TokenType::data: {
        ExprPtr data = node(ExprKind::constant, token.line);
        data->constant =
            Value::object(Kind::string, std::make_shared<const Text>(nullptr, token.text, std::vector<Span>(), false));
        output(token.line).push_back(std::move(data));
        next();
        break;
      }
      case TokenType::variable_begin: {
        next();
        ExprPtr expr = parse_tuple();
        output(token.line).push_back(std::move(expr));
        expect(TokenType::variable_end);
        break;
      }
      case TokenType::block_begin:
        next();
        if (current().type == TokenType::name && std::find(ends.begin(), ends.end(), current().text) != ends.end())
          return body;
        body.push_back(parse_statement());
        expect(TokenType::block_end);
        break;
      default:
        if (ends.size()) fail("unexpected end of the template, expected '" + std::string(*(ends.end() - 1)) + "'");
        return body;
    }
  }
}

Body Parser::parse_statements(std::initializer_list<std::string_view> ends) {
  skip_op(":");
  expect(TokenType::block_end);
  return parse_body(ends);
}

StmtPtr Parser::parse_statement() {
  if (current().type != TokenType::name) fail("expected a tag name, found " + describe(current()));
  const std::string tag = current().text;
  const int line = next().line;
  if (tag == "for") return parse_for(make(StmtKind::for_loop, line));
  if (tag == "if") return parse_if(make(StmtKind::condition, line));
  if (tag == "set") return parse_set(make(StmtKind::set, line));
  if (tag == "with") return parse_with(make(StmtKind::with, line));
  if (tag == "macro") return parse_macro(make(StmtKind::macro, line));
  if (tag == "call") return parse_call_block(make(StmtKind::call_block, line));
  if (tag == "block") return parse_block(make(StmtKind::block, line));
  if (tag == "generation") {
    StmtPtr stmt = make(StmtKind::call_block, line);
    parse_macro_body(*stmt, "endgeneration");
    return stmt;
  }
  if (tag == "filter") {
    StmtPtr stmt = make(StmtKind::filter_block, line);
    stmt->value = parse_filter(nullptr, true);
    stmt->body = parse_statements({"endfilter"});
    expect_name("endfilter");
    return stmt;
  }
  if (tag == "print") {
    StmtPtr stmt = make(StmtKind::output, line);
    while (current().type != TokenType::block_end) {
      if (!stmt->exprs.empty()) expect_op(",");
      stmt->exprs.push_back(parse_expression());
    }
    return stmt;
  }
  if (tag == "autoescape") {
    const ExprPtr value = parse_expression();
    if (value->kind != ExprKind::constant || truth(value->constant)) fail_at(line, "autoescape is not supported");
    StmtPtr stmt = make(StmtKind::scope, line);
    stmt->body = parse_statements({"endautoescape"});
    expect_name("endautoescape");
    return stmt;
  }
  if (tag == "break" || tag == "continue") {
    if (!loops_) fail_at(line, "'" + tag + "' outside of a loop");
    return make(tag == "break" ? StmtKind::break_loop : StmtKind::continue_loop, line);
  }
  if (tag == "include" || tag == "import" || tag == "from" || tag == "extends")
    fail_at(line, "'" + tag + "' is not supported: a chat template stands alone");
  fail_at(line, "unknown tag '" + shorten(tag) + "'");
}

StmtPtr Parser::parse_for(StmtPtr stmt) {
  stmt->target = parse_target(TupleEnd::in);
  expect_name("in");
  stmt->value = parse_tuple(false, false, TupleEnd::recursive);
  if (skip_name("if")) stmt->test = parse_expression();
  stmt->recursive = skip_name("recursive");
  const auto assigns_loop = [&](const Expr& target, const auto& self) -> bool {
    if (target.kind == ExprKind::name) return result_.names[static_cast<size_t>(target.name)] == "loop";
    return std::any_of(target.parts.begin(), target.parts.end(), [&](const auto& p) { return self(*p, self); });
  };
  if (assigns_loop(*stmt->target, assigns_loop)) fail_at(stmt->line, "cannot assign to the special variable 'loop'");
  ++loops_;
  stmt->body = parse_statements({"endfor", "else"});
  --loops_;
  if (next().text == "else") {
    stmt->else_body = parse_statements({"endfor"});
    expect_name("endfor");
  }
  return stmt;
}

StmtPtr Parser::parse_if(StmtPtr stmt) {
  while (true) {
    Branch branch;
    branch.test = parse_tuple(false, false);
    branch.body = parse_statements({"elif", "else", "endif"});
    stmt->branches.push_back(std::move(branch));
    const std::string tag = next().text;
    if (tag == "elif") continue;
    if (tag == "else") {
      Branch otherwise;
      otherwise.body = parse_statements({"endif"});
      expect_name("endif");
      stmt->branches.push_back(std::move(otherwise));
    }
    return stmt;
  }
}

StmtPtr Parser::parse_set(StmtPtr stmt) {
  stmt->target = parse_target(TupleEnd::none, true);
  if (skip_op("=")) {
    stmt->value = parse_tuple();
    return stmt;
  }
  stmt->kind = StmtKind::set_block;
  stmt->value = parse_filter(nullptr);
  stmt->body = parse_statements({"endset"});
  expect_name("endset");
  return stmt;
}

StmtPtr Parser::parse_with(StmtPtr stmt) {
  while (current().type != TokenType::block_end) {
    if (!stmt->targets.empty()) expect_op(",");
    stmt->targets.push_back(parse_target());
    expect_op("=");
    stmt->exprs.push_back(parse_expression());
  }
  stmt->body = parse_statements({"endwith"});
  expect_name("endwith");
  return stmt;
}

void Parser::parse_signature(MacroInfo& macro) {
  expect_op("(");
  while (!is_op(")")) {
    if (!macro.arguments.empty()) expect_op(",");
    const int name = parse_name_target();
    if (std::find(macro.arguments.begin(), macro.arguments.end(), name) != macro.arguments.end())
      fail("duplicate argument '" + result_.names[static_cast<size_t>(name)] + "'");
    if (skip_op("="))
      macro.defaults.push_back(parse_expression());
    else if (!macro.defaults.empty())
      fail("an argument without default follows one with a default");
    macro.arguments.push_back(name);
  }
  expect_op(")");
}

void Parser::parse_macro_body(Stmt& stmt, std::string_view end) {
  MacroInfo& macro = stmt.macro;
  const int outer_loops = loops_;
  loops_ = 0;
  macros_.emplace_back();
  stmt.body = parse_statements({end});
  const Mentions mentions = macros_.back();
  macros_.pop_back();
  loops_ = outer_loops;
  expect_name(end);
  const auto has_argument = [&](const char* name) {
    const auto at = std::find(result_.names.begin(), result_.names.end(), name);
    const int index = static_cast<int>(at - result_.names.begin());
    return at != result_.names.end() &&
           std::find(macro.arguments.begin(), macro.arguments.end(), index) != macro.arguments.end();
  };
  if (mentions.caller && has_argument("caller")) {
    const auto at = std::find_if(macro.arguments.begin(), macro.arguments.end(),
                                 [&](int a) { return result_.names[static_cast<size_t>(a)] == "caller"; });
    const auto from_end = static_cast<size_t>(macro.arguments.end() - at);
    if (from_end > macro.defaults.size()) fail_at(stmt.line, "the argument 'caller' must have a default");
  }
  for (const char* name : {"caller", "kwargs", "varargs"}) intern(name);
  macro.wants_caller = mentions.caller;
  macro.wants_kwargs = mentions.kwargs && !has_argument("kwargs");
  macro.wants_varargs = mentions.varargs && !has_argument("varargs");
}

StmtPtr Parser::parse_macro(StmtPtr stmt) {
  stmt->name = parse_name_target();
  stmt->macro.name = result_.names[static_cast<size_t>(stmt->name)];
  parse_signature(stmt->macro);
  parse_macro_body(*stmt, "endmacro");
  return stmt;
}

StmtPtr Parser::parse_call_block(StmtPtr stmt) {
  if (is_op("(")) parse_signature(stmt->macro);
  stmt->value = parse_expression();
  if (stmt->value->kind != ExprKind::call) fail_at(stmt->line, "expected a call");
  parse_macro_body(*stmt, "endcall");
  return stmt;
}

StmtPtr Parser::parse_block(StmtPtr stmt) {
  const std::string name = expect_any_name();
  stmt->recursive = skip_name("scoped");  // sees the variables around it
  if (is_name("required")) fail("'required' blocks are not supported");
  if (std::find(blocks_.begin(), blocks_.end(), name) != blocks_.end()) fail("block '" + name + "' defined twice");
  blocks_.push_back(name);
  const int outer_loops = loops_;
  loops_ = 0;
  stmt->body = parse_statements({"endblock"});
  loops_ = outer_loops;
  expect_name("endblock");
  skip_name(name);
  return stmt;
}

}  // namespace signalbox::loaders::jinja
