// The rules for the app's scripts (app/*/*.js). These scripts are no modules: Gradio runs several of them, one after another, in one scope
// (app/page/scripts.py), so each may use what the others declare at their top.
import { readdirSync, readFileSync } from 'node:fs';
import js from '@eslint/js';
import { parse } from 'espree';
import globals from 'globals';

const FOLDER = 'app';
const ECMA = 2022;
const GIVEN = ['element', 'props', 'server', 'trigger', 'watch', 'PARAMETERS', 'LONGEST_IN_ADDRESS']; // by Gradio, and by address.py

const namesIn = (pattern) => {
  if (pattern.type === 'ObjectPattern') return pattern.properties.flatMap((one) => namesIn(one.value));
  if (pattern.type === 'ArrayPattern') return pattern.elements.filter(Boolean).flatMap(namesIn);
  return [pattern.name];
};
const declared = (file) =>
  parse(readFileSync(`${FOLDER}/${file}`, 'utf-8'), { ecmaVersion: ECMA }).body.flatMap((node) => {
    if (node.type === 'VariableDeclaration') return node.declarations.flatMap(({ id }) => namesIn(id));
    return node.type === 'FunctionDeclaration' ? [node.id.name] : [];
  });
const files = readdirSync(FOLDER, { recursive: true }).filter((file) => file.endsWith('.js'));
const names = Object.fromEntries(files.map((file) => [file, declared(file)]));

const all = (names, value) => Object.fromEntries(names.map((name) => [name, value]));

export default files.map((file) => ({
  files: [`${FOLDER}/${file}`],
  languageOptions: {
    ecmaVersion: ECMA,
    sourceType: 'script',
    globals: {
      ...globals.browser,
      ...all(GIVEN, 'readonly'),
      ...all(Object.values(names).flat(), 'writable'),
      ...all(names[file], 'off'), // its own
    },
  },
  rules: {
    ...js.configs.recommended.rules,
    eqeqeq: 'error',
    'no-var': 'error',
    'no-redeclare': ['error', { builtinGlobals: false }], // another scope may have the same name
    'no-unused-vars': ['error', { vars: 'local' }], // others use what stands at the top
  },
}));
