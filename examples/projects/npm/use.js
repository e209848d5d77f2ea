// Needs the packages that the project npm installs: serves one page with express, rendered by
// handlebars from what lodash and semver computed, asks itself for it, prints it, and ends.
'use strict';
const http = require('node:http');
const express = require('express');
const handlebars = require('handlebars');
const _ = require('lodash');
const semver = require('semver');

const page = handlebars.compile('newest {{newest}}, sum {{sum}}, {{greeting}}');
const app = express();
app.get('/:name', (request, response) => {
  response.send(page({
    newest: semver.rsort(['1.2.3', '1.10.0', '1.9.9'])[0],
    sum: _.sum(_.range(1, 101)),
    greeting: _.capitalize(`hello ${request.params.name}`),
  }));
});

const server = app.listen(0, '127.0.0.1', () => {
  http.get({ host: '127.0.0.1', port: server.address().port, path: '/mistry' }, (response) => {
    response.setEncoding('utf8');
    let body = '';
    response.on('data', (piece) => { body += piece; });
    response.on('end', () => {
      console.log(body);
      server.close();
    });
  });
});
