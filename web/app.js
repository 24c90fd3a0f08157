import { connect } from "./sdk/shardcast.js";
connect;
