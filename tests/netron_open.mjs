// Opens each file named on the command line with netron's own reader of Caffe's formats; run beside netron's sources.
// Prints one JSON line: {file: [[type, name], ...] of the graph's nodes, or an error's text}.
import './base.js';
import * as fs from 'fs';
import * as path from 'path';
import * as protobuf from './protobuf.js';
import { ModelFactory } from './caffe.js';

const types = new Map(JSON.parse(fs.readFileSync('caffe-metadata.json', 'utf8')).map((type) => [type.name, type]));
const metadata = {
    type: (name) => types.get(name) || { name },
    attribute: (type, name) => ((types.get(type) || {}).attributes || []).find((own) => own.name === name) || null
};

function contextOf(file) {
    const data = new Uint8Array(fs.readFileSync(file));
    const text = () => protobuf.TextReader.open(data);
    return {
        identifier: path.basename(file),
        tags: () => text().signature(),
        read: (type) => (type === 'protobuf.text' ? text() : protobuf.BinaryReader.open(data)),
        require: (id) => import(`${id}.js`),
        metadata: () => metadata,
        fetch: (name) => contextOf(path.join(path.dirname(file), name))
    };
}

const found = {};
for (const file of process.argv.slice(2)) {
    try {
        const factory = new ModelFactory();
        const context = contextOf(file);
        factory.match(context);
        const model = await factory.open(context);
        found[file] = (model.modules || model.graphs)[0].nodes.map((node) => [node.type.name, node.name]);
    } catch (error) {
        found[file] = String(error.message || error);
    }
}
console.log(JSON.stringify(found));
