// The parts of ECharts that charts.js draws with; nothing else is shipped. The legend is HTML.
import * as core from 'echarts/core';
import { BarChart, LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, MarkLineComponent, TooltipComponent } from 'echarts/components';
import { CanvasRenderer } from 'echarts/renderers';

core.use([
  BarChart, CanvasRenderer, GridComponent, LineChart, MarkLineComponent, ScatterChart, TooltipComponent,
]);

export const { init, getInstanceByDom, version } = core;
